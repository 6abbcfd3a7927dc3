"""What a command line asks for, as a job: arguments without secrets, typed options, inputs."""

from __future__ import annotations

import enum
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mqnative.jobs.secrets import SECRET_OPTIONS

if TYPE_CHECKING:
    from mqnative.jobs.runner import Asked

# How a command is run, which its outcome does not depend on.
NEUTRAL = frozenset({"as_json", "force", "n_threads", "memory_bytes", "offline", "detach", "queue", "plan"})
# Flags that are not kept with a job: each run of it has its own.
_NOT_KEPT = frozenset({"as_json", "detach", "queue", "plan"})
# Parameters of what is written begin so; all other paths are read.
_WRITTEN = ("output", "save")


@dataclass(frozen=True)
class Request:
    """A parsed command line.

    Attributes:
        kind: the command's name.
        argv: its arguments, without secrets and flags about how to run it.
        params: parameter -> value, as the command gets them before they are packed.
        positional: the names of parameters that are arguments.
        folder: where it was given.
        secrets: values that must not be written.
    """

    kind: str
    argv: tuple[str, ...]
    params: Mapping[str, Any]
    positional: frozenset[str]
    folder: Path
    secrets: tuple[str, ...]

    @classmethod
    def of(cls, context: click.Context, arguments: Sequence[str]) -> Request:
        """The request of a command's context.

        Args:
            context: of the command, parsed.
            arguments: what followed its name.
        """
        hidden = SECRET_OPTIONS | _NOT_KEPT
        params = {name: value for name, value in context.params.items() if name not in SECRET_OPTIONS}
        return cls(
            kind=context.command.name or "",
            argv=tuple(_without(context.command, arguments, hidden)),
            params=params,
            positional=frozenset(
                p.name or "" for p in context.command.params if isinstance(p, click.Argument)
            ),
            folder=Path.cwd(),
            secrets=tuple(v for n, v in context.params.items() if n in SECRET_OPTIONS and v),
        )

    def asked(self) -> Asked:
        """The job: reads the inputs, except models, to hash them."""
        from mqnative.jobs.inputs import input_facts, job_key, versions
        from mqnative.jobs.runner import Asked

        inputs = {}
        for name, value in self.params.items():
            paths = () if name.startswith(_WRITTEN) else _paths(value)
            found = [input_facts(path.absolute()) for path in paths]
            if facts := [one for one in found if one is not None]:
                inputs[name] = facts
        options = {n: self._plain(n, v) for n, v in self.params.items() if n not in _NOT_KEPT}
        deciding = {n: v for n, v in options.items() if n not in NEUTRAL}
        return Asked(
            key=job_key(self.kind, deciding, inputs),
            kind=self.kind,
            argv=self.argv,
            options=options,
            folder=str(self.folder),
            inputs=inputs,
            versions=versions(),
            device=str(self.params.get("device", "cpu")),
            secrets=self.secrets,
        )

    def require_unchanged(self, job: int, asked: Asked) -> None:
        """Refuse to resume a job whose inputs are others now.

        Raises:
            JobStateError: they are.
        """
        from mqnative.errors import JobStateError
        from mqnative.store import Store

        with Store.open() as store:
            before = store.jobs.get(job)
        if before.key == asked.key:
            return
        # What was found on the way, such as a model on the hub, is asked for anew.
        stamps = {n: [one.get("stamp") for one in found] for n, found in before.inputs.items()}
        given = {n: [one.get("stamp") for one in found] for n, found in asked.inputs.items()}
        changed = [n for n, found in given.items() if found != stamps.get(n, [])[: len(found)]]
        changed += [n for n, found in stamps.items() if n not in given and "files" not in before.inputs[n][0]]
        what = ", ".join(changed) or "its options"
        raise JobStateError(
            f"job {job} cannot go on: {what} changed since; give its command again for a new job",
            job=job,
            state=before.state,
        )

    def _plain(self, name: str, value: Any) -> Any:
        """A value as JSON; paths are absolute, except an argument that names nothing here, as hub ids do."""
        if isinstance(value, Path):
            keep = name in self.positional and not os.path.lexists(value)
            return str(value if keep else value.absolute())
        if isinstance(value, (list, tuple)):
            return [self._plain(name, part) for part in value]
        if isinstance(value, Mapping):
            return {str(key): self._plain(name, part) for key, part in value.items()}
        if isinstance(value, enum.Enum):
            return value.name
        if value is None or isinstance(value, (str, int, float)):
            return value
        return str(value)


def _paths(value: Any) -> Iterator[Path]:
    if isinstance(value, Path):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _paths(part)


def _without(command: click.Command, arguments: Sequence[str], names: frozenset[str]) -> Iterator[str]:
    """The arguments less the options of these names and their values."""
    flags: dict[str, bool] = {}
    for param in command.params:
        if isinstance(param, click.Option) and param.name in names:
            flags |= dict.fromkeys((*param.opts, *param.secondary_opts), param.is_flag)
    rest = iter(arguments)
    for word in rest:
        if word == "--":
            yield word
            yield from rest
            return
        option = word.partition("=")[0]
        if option not in flags:
            yield word
        elif word == option and not flags[option]:
            next(rest, None)
