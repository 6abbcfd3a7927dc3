"""``python -m mqnative``."""

from mqnative.app.cli import main

if __name__ == "__main__":
    main()
