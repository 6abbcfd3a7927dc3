"""Which folder holds the store and the caches."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mqnative.errors import StoreError

HOME_VARIABLE = "MQNATIVE_HOME"
OTHER_FOLDER = f"set {HOME_VARIABLE} to another folder"
DATABASE_NAME = "mqnative.db"


def home() -> Path:
    """The folder named by MQNATIVE_HOME, else the platform's data folder; made if it is not there.

    Raises:
        StoreError: it cannot be made, or no home folder is known to look for it in.
    """
    chosen = os.environ.get(HOME_VARIABLE)
    try:
        folder = Path(chosen).expanduser() if chosen else _data_folder() / "mqnative"
    except RuntimeError as error:  # neither the environment nor the user database names one
        raise StoreError(f"your home folder is unknown; {OTHER_FOLDER}", path=chosen) from error
    return made_folder(folder.absolute())


def made_folder(folder: Path) -> Path:
    """``folder``, made with its parents if it is not there.

    Raises:
        StoreError: it cannot be made, or a file has that name.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "a file has that name" if folder.is_file() else error.strerror or str(error)
        raise StoreError(
            f"cannot make the folder {folder}: {reason}; {OTHER_FOLDER}", path=str(folder)
        ) from error
    return folder


def _data_folder() -> Path:
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return Path(local) if local else Path.home() / "AppData" / "Local"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support"
    data = os.environ.get("XDG_DATA_HOME", "")
    # The XDG specification has relative paths ignored.
    return Path(data) if Path(data).is_absolute() else Path.home() / ".local" / "share"
