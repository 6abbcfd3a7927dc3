"""The web page on this machine: NiceGUI widgets over `mqnative.app.views`, which decide what is shown."""
