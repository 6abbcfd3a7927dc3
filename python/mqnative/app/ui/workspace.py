"""What all tabs share: the models on the page, the recipes being edited, and who is to be told of a change.

Everything here is quick; files and the store are read on other threads, by `loaded`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nicegui import Event, run

from mqnative.app.ui.drafts import Drafts
from mqnative.app.ui.folders import Folders
from mqnative.app.ui.reading import Mixes, model_in, read_view, related_mixes, stamp_of
from mqnative.app.views.draft import Draft, History
from mqnative.app.views.model_view import ModelView, key_of
from mqnative.app.views.resolve import first_draft
from mqnative.errors import SourceError
from mqnative.formats.atomic import write_text_atomic

_LIST = "models.json"


@dataclass
class Session:
    """A model on the page.

    Attributes:
        view: what is known of it.
        history: the recipe being edited.
        stamp: of what it was read from; a change means that it is to be read again.
        changed: told the names of the tensors whose type or pin changed.
        keep: told the recipe after every change.
        others: mixes to compare with, as they were found last.
    """

    view: ModelView
    history: History
    stamp: tuple[Any, ...]
    changed: Event[[list[str]]] = field(default_factory=Event)
    keep: Callable[[Draft], None] = field(default=lambda _: None)
    others: dict[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def draft(self) -> Draft:
        """The recipe as it is now."""
        return self.history.now

    def change(self, draft: Draft) -> None:
        """Take a new state of the recipe and tell every tab."""
        self._take(self.history.then(draft))

    def undo(self) -> None:
        """One step back."""
        self._take(self.history.undo())

    def redo(self) -> None:
        """One step forward again."""
        self._take(self.history.redo())

    def _take(self, history: History) -> None:
        before, after = self.history.now, history.now
        self.history = history
        names = {n for n, t in after.types.items() if before.types[n] != t} | (before.pins ^ after.pins)
        self.keep(after)
        self.changed.emit(sorted(names))


class Workspace:
    """The models that people added, kept in a file, and their sessions.

    Args:
        folders: what the page may read.
        home: where the list is kept.
    """

    def __init__(self, folders: Folders, home: Path) -> None:
        self.folders = folders
        self.home = home
        self.drafts = Drafts(home / "drafts")
        self._sessions: dict[str, Session] = {}

    @property
    def _list(self) -> Path:
        return self.home / _LIST

    def models(self) -> dict[str, Path]:
        """Key -> path of every model that was added and may be read, in the order of adding."""
        try:
            paths = json.loads(self._list.read_text(encoding="utf-8"))["models"]
            found = [Path(path) for path in paths if isinstance(path, str)]
        except (OSError, ValueError, KeyError, TypeError):
            found = []
        return {key_of(path): path for path in found if self.folders.allows(path)}

    def add(self, path: Path) -> str:
        """Put a model on the page; returns its key.

        Raises:
            MQNativeError: it is neither a model nor the folder of a finished run.
        """
        # The last part stays a link: in the hub's cache its name is the file's, what it leads to is a hash.
        path = path.parent.resolve() / path.name
        if path.is_dir():
            path = model_in(path)
        if not self.folders.allows(path):
            raise SourceError(f"{path} lies outside of the folders this page may use", path=str(path))
        read_view(path)
        known = self.models()
        known[key_of(path)] = path
        self._save(known)
        return key_of(path)

    def remove(self, key: str) -> None:
        """Take a model off the page; its file stays."""
        known = self.models()
        known.pop(key, None)
        self._sessions.pop(key, None)
        self._save(known)

    def _save(self, models: dict[str, Path]) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"models": [str(path) for path in models.values()]}, indent=2)
        write_text_atomic(self._list, text + "\n")

    async def session(self, key: str) -> Session:
        """The session of a model, read again where the store or the file has changed.

        Raises:
            SourceError: there is no such model on the page.
            MQNativeError: it cannot be read any more.
        """
        path = self.models().get(key)
        if path is None:
            raise SourceError("this model is not on the page; add it on the Models page", path=key)
        stamp = await loaded(stamp_of, path)
        known = self._sessions.get(key)
        if known is not None and known.stamp == stamp:
            return known
        view = await loaded(self.read, path)
        if known is not None and (known.history.past or known.view.is_measured):
            history = known.history
        else:
            history = History(await loaded(self.drafts.load, view) or await loaded(first_draft, view))
        changed: Event[[list[str]]] = Event() if known is None else known.changed
        session = Session(view, history, stamp, changed, lambda draft: self.drafts.keep(key, draft))
        self._sessions[key] = session
        return session

    def read(self, path: Path) -> ModelView:
        """A model as it is now; of a run or a release the model's file is looked for.

        Raises:
            MQNativeError: it cannot be read.
        """
        return read_view(path, self._files)

    def related(self, view: ModelView) -> Mixes:
        """What runs and releases on the page made of the same model, by name."""
        return related_mixes(view, self.models().values())

    def _files(self) -> Iterator[Path]:
        """Model files on the page, then those nearby."""
        yield from (path for path in self.models().values() if path.is_file())
        yield from (path.resolve() for path in self.folders.models() if path.is_file())


async def loaded(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function that reads files or solves, from another thread."""
    return await run.io_bound(function, *arguments)
