"""The ``mqnative`` command: finds subcommands when they are needed, turns errors into exit codes.

Exit codes: 0 done, 1 failed, 2 usage, 3 infeasible, 130 interrupted.
"""

from __future__ import annotations

import errno
import importlib
import io
import json
import os
import signal
import sys
from collections.abc import Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from mqnative.errors import MQNativeError, OperationCancelled

if TYPE_CHECKING:
    from mqnative.store.job_rows import Job

# Name -> (module:function, what `mqnative --help` says). A module is imported when its command is used.
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("mqnative.app.auto:demo", "Run the whole job on the built-in model."),
    "auto": ("mqnative.app.auto:auto", "Find, build and prove the best mix of a size."),
    "fetch": ("mqnative.app.fetch:fetch_command", "Download a model from the hub: what it takes, no more."),
    "doctor": ("mqnative.app.doctor:doctor", "Show what this build and this machine can do."),
    "convert": (
        "mqnative.app.convert:convert",
        "Convert a Hugging Face model to GGUF, straight to a recipe's types.",
    ),
    "fit": ("mqnative.app.fit:fit", "Show which sizes of a model fit this machine."),
    "bench": (
        "mqnative.app.bench:bench_command",
        "Measure how fast a file, or each type, is on this machine.",
    ),
    "inspect": ("mqnative.app.inspect:inspect", "Show a model's structure, types and sizes."),
    "imatrix": ("mqnative.app.imatrix:imatrix", "Collect an importance matrix from a text."),
    "sweep": ("mqnative.app.sweep:sweep", "Measure the weight error of every tensor at every type."),
    "probe": ("mqnative.app.probe:probe", "Measure the KL divergence that quantizing each tensor causes."),
    "solve": ("mqnative.app.solve:solve", "Find the best recipe for a budget."),
    "frontier": ("mqnative.app.frontier:frontier", "Show size against damage, with its knee."),
    "eval": ("mqnative.app.eval:evaluate_command", "Measure perplexity and KL divergence."),
    "compare": ("mqnative.app.compare:compare", "Compare files with the unquantized model and each other."),
    "hybrids": ("mqnative.app.hybrids:hybrids", "Mix, judge and publish the files worth their size."),
    "clone": ("mqnative.app.clone:clone", "Build and verify another model's mix on a finetune."),
    "learn": ("mqnative.app.learn:learn", "Learn the types of others' files, by tensor and by group."),
    "name": ("mqnative.app.name:name", "Read and write the names of mixes."),
    "build": ("mqnative.app.build:build", "Write the GGUF that a recipe describes."),
    "publish": ("mqnative.app.publish:publish", "Upload a finished folder to the hub, with a model card."),
    "report": (
        "mqnative.app.report:report",
        "Write a finished job's report: HTML, Markdown, plots, JSON.",
    ),
    "ui": ("mqnative.app.ui.command:ui", "Open the page: look, edit, build, compare."),
    "jobs": ("mqnative.app.jobs:jobs", "List, follow, pause, resume and plan long commands."),
}

# Under this name the context holds what was typed.
ARGUMENTS = "mqnative.arguments"
# And under this one the job that is run again: its number, and whether its log takes what is shown.
RESUMED = "mqnative.resumed"
# Click's mark for a paragraph whose lines stay as they are.
_NO_WRAP = "\b\n"


class LazyGroup(click.Group):
    """A group whose commands are imported on use, so that ``--help`` is immediate."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Commands in the order in which they are usually needed."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import the module that holds the command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, function = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), function)
        assert isinstance(command, click.Command)
        if command.epilog and not command.epilog.startswith(_NO_WRAP):
            # An example that is broken over lines cannot be pasted.
            command.epilog = _NO_WRAP + command.epilog
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """The list in ``--help``, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _version() -> str:
    from mqnative import __version__

    return str(__version__)


def _show_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"mqnative {_version()}")
        ctx.exit()


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version.",
)
def cli() -> None:
    """Find, build and prove the best mixed-precision GGUF for a size.

    Results go to standard output, progress to standard error. `mqnative COMMAND --help` has examples.
    """


def _on_terminate(_signum: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    signal.signal(signal.SIGTERM, _on_terminate)
    # A closed terminal, unless the user asked to survive it (nohup).
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _on_terminate)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # File names are bytes, and come out as the bytes they are.
            stream.reconfigure(errors="surrogateescape")
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run_again(job: Job, *, logged: bool, as_json: bool) -> int:
    """Run the command of a job in this process; returns the exit code.

    Args:
        job: the job.
        logged: whether its log takes what would be shown.
        as_json: whether to print one JSON object.
    """
    flags = ["--json"] if as_json else []
    return run([job.kind, *flags, *job.argv], {RESUMED: (job.id, logged)})


def _invoke(arguments: list[str], meta: Mapping[str, Any]) -> int:
    if "_MQNATIVE_COMPLETE" in os.environ:  # a shell asks what could follow
        cli.main(arguments, prog_name="mqnative")
    try:
        # Not main(), which hides how a run ended.
        with cli.make_context("mqnative", list(arguments)) as context:
            context.meta.update({ARGUMENTS: tuple(arguments), **meta})
            cli.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    return 0


def run(arguments: list[str], meta: Mapping[str, Any] | None = None) -> int:
    """Run the command line; returns the exit code.

    Args:
        arguments: what follows ``mqnative``.
        meta: what the context of every command holds besides.
    """
    try:
        return _invoke(arguments, meta or {})
    except click.ClickException as error:
        if "--json" in arguments:
            click.echo(json.dumps({"error": "UsageError", "message": error.format_message()}))
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return OperationCancelled.exit_code
    except (BrokenPipeError, SystemExit) as stop:
        # Rich turns the first into the second.
        if isinstance(stop, SystemExit) and not isinstance(stop.__context__, BrokenPipeError):
            raise
        # The reader of our output went away (`mqnative inspect ... | head`); there is no one to tell.
        return _reader_left()
    except MQNativeError as error:
        if "--json" in arguments:
            click.echo(json.dumps(error.to_dict(), default=str))
        click.echo(f"error: {error.message}", err=True)
        return error.exit_code
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO, errno.EDQUOT):
            raise
        click.echo(f"error: cannot write to standard output: {os.strerror(error.errno)}", err=True)
        _reader_left()
        return 1


def _reader_left() -> int:
    """Nothing more is written: the interpreter would try to flush it on exit, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
