"""The command line. Every command parses, makes one call on the public API, and prints."""
