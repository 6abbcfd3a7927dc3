"""A running long command as a job: begun with its first progress, ended with the command."""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import click

from mqnative.core.monitor import NULL_MONITOR, Monitor
from mqnative.errors import JobStateError, MissingCoreError, MQNativeError, StoreError

if TYPE_CHECKING:
    from typing_extensions import Self

    from mqnative.app.job_request import Request
    from mqnative.jobs.runner import Runner
    from mqnative.source.fetch import Choice

_HELD = "mqnative.job"


class CommandJob:
    """The job of the command that runs; a context manager around its body.

    A command that refuses its arguments shows no progress and leaves no job behind.

    Args:
        request: what was asked for.
        expected: the number of the job that is to be resumed.
        quiet: whether the log takes what would be shown.
    """

    def __init__(self, request: Request, *, expected: int | None = None, quiet: bool = False) -> None:
        self.quiet = quiet
        self._request = request
        self._expected = expected
        self._stack = ExitStack()
        self._runner: Runner | None = None
        self._monitor: Monitor | None = None
        self._unrecorded: str | None = None

    def __enter__(self) -> Self:
        click.get_current_context().meta[_HELD] = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is None and self._expected is not None:
            self._tell_refused(self._expected, error)
        self._stack.__exit__(kind, error, trace)
        if error is None and self._unrecorded is not None:
            click.echo(f"note: this run was not recorded as a job: {self._unrecorded}", err=True)
        if isinstance(error, KeyboardInterrupt) and self._runner is not None:
            self._tell_way_back(self._runner)

    def begin(self) -> Monitor:
        """Begin, unless that was done already; what reports go to."""
        if self._monitor is None:
            self._monitor = NULL_MONITOR
            try:
                self._monitor = self._begin()
            except StoreError as error:
                # The work itself may need no store; one that does says so.
                self._unrecorded = error.message
            except MissingCoreError:
                pass  # the command says it
        return self._monitor

    def _begin(self) -> Monitor:
        from mqnative.app.follow import Follower
        from mqnative.jobs.runner import Runner

        asked = self._request.asked()
        if self._expected is not None:
            self._request.require_unchanged(self._expected, asked)
        with Follower() as follower:
            self._runner = self._stack.enter_context(
                Runner(asked, only=self._expected, on_wait=follower.show)
            )
        self._expect(self._runner)
        self._runner.hash_inputs()
        return self._runner.monitor

    def source_found(self, argument: str | Path, choice: Choice | None) -> None:
        """The model is known, and neither fetched nor converted yet.

        Args:
            argument: as the command was given it.
            choice: its files on the hub, if it is there.
        """
        from mqnative.jobs.inputs import hub_facts

        if self._runner is None:
            return
        if choice is not None:
            self._runner.add_input(self._parameter(argument), hub_facts(choice))
        if self._is_planned(argument):
            self._expect(self._runner, ask=True, choice=choice)

    def reference_there(self, argument: str | Path, path: Path) -> None:
        """The model is a GGUF on this machine.

        Args:
            argument: as the command was given it.
            path: the file, or the first of a split one.
        """
        from mqnative.app.plans import machine_of_command, plan_of, until_there, with_model
        from mqnative.jobs.inputs import input_facts
        from mqnative.store import Store

        if self._runner is None or os.fspath(argument) == str(path):
            return
        if self._runner.job.estimate is None and self._is_planned(argument):
            # By the file itself it is known later which of the steps behind this were done before.
            until_here = () if self._runner.plan is None else until_there(self._runner.plan)
            params = with_model(self._request.kind, self._request.params, path)
            with suppress(MQNativeError, OSError), Store.open() as store:
                plan = plan_of(self._request.kind, params, store, besides=self._runner.job.id)
                if plan is not None:
                    plan = replace(plan, steps=(*until_here, *plan.steps))
                    self._runner.expect(plan, machine_of_command(params))
        if (facts := input_facts(path.absolute())) is not None:
            self._runner.add_input(self._parameter(argument), facts)

    def _is_planned(self, argument: str | Path) -> bool:
        from mqnative.app.plan_files import source_of

        return source_of(self._request.kind, self._request.params) == argument

    def _parameter(self, argument: str | Path) -> str:
        """The name of the parameter that has this value."""
        values = self._request.params.items()
        found = (n for n, v in values if v == argument or (isinstance(v, tuple) and argument in v))
        return next(found, "model")

    def _expect(self, runner: Runner, *, ask: bool = False, choice: Choice | None = None) -> None:
        """Say what the job is expected to cost, so that it can be compared with what it does cost."""
        from mqnative.app.plans import machine_of_command, plan_of
        from mqnative.store import Store

        if runner.job.estimate is not None:  # from its first attempt, when all was still to come
            from mqnative.jobs.estimate import Plan

            runner.expect(Plan.from_dict(runner.job.estimate), machine_of_command(self._request.params))
            return
        # What cannot be read now is reported by the command itself.
        with suppress(MQNativeError, OSError), Store.open() as store:
            kind, params = runner.job.kind, self._request.params
            plan = plan_of(kind, params, store, ask=ask, choice=choice, besides=runner.job.id)
            if plan is not None:
                runner.expect(plan, machine_of_command(self._request.params))

    @staticmethod
    def _tell_refused(job: int, error: BaseException | None) -> None:
        """A job that was queued would else wait for ever for what its command refuses."""
        from mqnative.jobs.secrets import redacted
        from mqnative.store import Store
        from mqnative.store.job_tables import FAILED, QUEUED

        if isinstance(error, Exception):
            message = redacted(getattr(error, "message", None) or str(error))
            with suppress(StoreError, JobStateError), Store.open() as store:
                if store.jobs.get(job).state == QUEUED:
                    store.jobs.end(job, FAILED, {"error": type(error).__name__, "message": message})

    @staticmethod
    def _tell_way_back(runner: Runner) -> None:
        from mqnative.store import Store

        with suppress(StoreError, JobStateError), Store.open() as store:
            job = store.jobs.get(runner.job.id)
            way = f"; the same command or `mqnative jobs resume {job.id}` continues it"
            click.echo(f"job {job.id} is {job.state}{way if job.state == 'paused' else ''}", err=True)


def command_job() -> CommandJob | None:
    """The job of the running command, if it is a long one."""
    context = click.get_current_context(silent=True)
    held = None if context is None else context.meta.get(_HELD)
    return held if isinstance(held, CommandJob) else None
