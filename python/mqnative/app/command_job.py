"""A running long command as a job: begun with its first progress, ended with the command."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from types import TracebackType
from typing import TYPE_CHECKING

import click

from mqnative.core.monitor import NULL_MONITOR, Monitor
from mqnative.errors import JobStateError, MissingCoreError, MQNativeError, StoreError

if TYPE_CHECKING:
    from typing_extensions import Self

    from mqnative.app.job_request import Request
    from mqnative.jobs.runner import Runner

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
        self._runner.hash_inputs()
        self._expect(self._runner)
        return self._runner.monitor

    def _expect(self, runner: Runner) -> None:
        """Say what the job is expected to cost, so that it can be compared with what it does cost."""
        from mqnative.app.plans import machine_of_command, plan_of
        from mqnative.store import Store

        if runner.job.estimate is not None:  # from its first attempt, when all was still to come
            from mqnative.jobs.estimate import Plan

            runner.expect(Plan.from_dict(runner.job.estimate), machine_of_command(self._request.params))
            return
        # What cannot be read now is reported by the command itself.
        with suppress(MQNativeError, OSError), Store.open() as store:
            plan = plan_of(runner.job.kind, self._request.params, store, besides=runner.job.id)
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
