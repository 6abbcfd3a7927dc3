"""What the hub answered, in one sentence that says what to do. Never an address, never a token."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from mqnative.errors import HubError
from mqnative.source.hub_library import hub_library, network_errors

_LOGIN = "log in with `hf auth login`, set HF_TOKEN or pass --token"
_GATED_SCOPE = "'Read access to contents of all public gated repos you can access'"
_TOO_MANY = (429,)
_BUSY = (408, 500, 502, 503, 504)
_ATTEMPTS = 4
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 8.0
# What a server may ask for; beyond it the user decides.
_LONGEST_WAIT_S = 60.0

Result = TypeVar("Result")


@dataclass(frozen=True)
class Asked:
    """What the hub was asked about, for messages.

    Attributes:
        repo: ``org/name``.
        revision: as the user gave it.
        file: in the repository.
        authenticated: whether a token was sent.
        writing: whether something was to be changed.
    """

    repo: str
    revision: str | None = None
    file: str | None = None
    authenticated: bool = False
    writing: bool = False

    def error(
        self, message: str, reason: str, status: int | None = None, retry_after_s: float | None = None
    ) -> HubError:
        """``message`` as an error about this."""
        return HubError(
            message,
            repo=self.repo,
            revision=self.revision,
            file=self.file,
            reason=reason,
            status=status,
            retry_after_s=retry_after_s,
        )


def status_error(status: int, headers: Mapping[str, str], asked: Asked, said: str = "") -> HubError:
    """An HTTP answer as an error.

    Args:
        status: the HTTP code.
        headers: what the hub means is in ``X-Error-Code``; a server that gives none is known by its words.
        asked: what it was asked about.
        said: the error in the answer's body.
    """
    code = headers.get("X-Error-Code") or headers.get("x-error-code") or ""
    said = (headers.get("X-Error-Message") or headers.get("x-error-message") or said).lower()
    if status == 401 and (said.startswith("invalid") or (asked.authenticated and not code)):
        message = f"the hub refused the token: it is wrong, revoked or expired; {_LOGIN}"
        return asked.error(message, "token", status)
    closed = any(word in said for word in ("gated", "restricted"))
    if code == "GatedRepo" or (status in (401, 403) and closed):
        return _gated(asked, status)
    if code == "RevisionNotFound" or (status == 404 and "rev id" in said):
        return _no_revision(asked, status)
    if code == "EntryNotFound" or (status == 404 and not code and asked.file is not None):
        at = f"{asked.repo} at {asked.revision}" if asked.revision else asked.repo
        return asked.error(f"{at} has no {asked.file}; check the name of the file", "file", status)
    if asked.writing and status in (401, 403):
        return _not_writable(asked, status)
    if code == "RepoNotFound" or status == 404 or (status == 401 and not asked.authenticated):
        return _no_repository(asked, status)
    if status in (401, 403):
        return asked.error(
            f"the token may not read {asked.repo}; use one whose scopes include it (for gated ones: "
            f"{_GATED_SCOPE})",
            "forbidden",
            status,
        )
    wait = retry_after(headers)
    if status in _TOO_MANY:
        when = "later" if wait is None else f"in {wait:.0f} s"
        also = "" if asked.authenticated else f", or {_LOGIN}: accounts may ask more"
        message = f"the hub answers too many requests (429); try again {when}{also}"
        return asked.error(message, "rate", status, wait)
    if status in _BUSY:
        message = f"the hub is out of order at the moment ({status}); try again later"
        return asked.error(message, "busy", status, wait)
    return asked.error(f"the hub answered {status} about {asked.repo}", "status", status)


def network_error(error: BaseException, asked: Asked) -> HubError:
    """A failed connection as an error."""
    return asked.error(
        f"the connection to the hub failed ({kind_of(error)}); what was read so far is kept, run the same "
        "command again",
        "network",
    )


def offline_error(asked: Asked) -> HubError:
    """Something that is not on this machine is wanted without a network."""
    what = asked.repo if asked.file is None else f"{asked.file} of {asked.repo}"
    at = f" at {asked.revision}" if asked.revision else ""
    return asked.error(
        f"{what}{at} is not in the hub's cache on this machine, and offline nothing is fetched; run "
        f"`mqnative fetch {asked.repo}` where there is a network",
        "offline",
    )


@contextmanager
def translated(asked: Asked) -> Iterator[None]:
    """Errors of huggingface_hub and of its HTTP client as ours; their texts hold addresses, ours do not."""
    errors = hub_library().errors
    try:
        yield
    except errors.OfflineModeIsEnabled:
        raise offline_error(asked) from None
    except errors.HfHubHTTPError as error:
        raise _from_library(error, asked) from None
    except errors.LocalEntryNotFoundError as error:
        raise _from_cause(error, asked) from None
    except (errors.HFValidationError, errors.FileMetadataError) as error:
        raise asked.error(f"{asked.repo}: {kind_of(error)}; is this a hub?", "protocol") from None
    except network_errors() as error:
        raise network_error(error, asked) from None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait; None if it does not say."""
    given = headers.get("Retry-After") or headers.get("retry-after") or ""
    limits = headers.get("ratelimit") or headers.get("RateLimit") or ""
    limit = re.search(r";\s*r\s*=\s*0\s*;\s*t\s*=\s*(\d+)", limits)
    if given.strip().isdigit():
        return float(given)
    return float(limit[1]) if limit else None


def patience(error: HubError, attempt: int) -> float | None:
    """Seconds to wait before another attempt, after ``attempt`` failed ones; None: it would not help."""
    if error.reason not in ("network", "rate", "busy"):
        return None
    if error.retry_after_s is not None:
        return error.retry_after_s if error.retry_after_s <= _LONGEST_WAIT_S else None
    return min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** (attempt - 1))


def patiently(asked: Asked, call: Callable[[], Result]) -> Result:
    """A call of the library, again after a pause where that can help.

    Raises:
        HubError: it failed for good.
    """
    for attempt in range(1, _ATTEMPTS):
        try:
            with translated(asked):
                return call()
        except HubError as error:
            pause = patience(error, attempt)
            if pause is None:
                raise
        time.sleep(pause)
    with translated(asked):
        return call()


def kind_of(error: BaseException) -> str:
    """The name of an error in words: ``read timeout``."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(error).__name__).lower()
    return words.removesuffix(" error").removesuffix(" exception") or "error"


def _from_library(error: Any, asked: Asked) -> HubError:
    response = getattr(error, "response", None)
    if response is None:
        return asked.error(f"the hub refused {asked.repo}", "status")
    said = getattr(error, "server_message", None) or ""
    return status_error(response.status_code, response.headers, asked, str(said))


def _from_cause(error: BaseException, asked: Asked) -> HubError:
    """The library hides what happened behind 'not in the cache'."""
    cause = error.__cause__
    errors = hub_library().errors
    if isinstance(cause, errors.HfHubHTTPError):
        return _from_library(cause, asked)
    if isinstance(cause, network_errors()):
        return network_error(cause, asked)
    return offline_error(asked)


def _gated(asked: Asked, status: int) -> HubError:
    if not asked.authenticated:
        return asked.error(
            f"{asked.repo} is gated: accept its conditions on its page, then {_LOGIN}; a fine-grained token "
            f"needs the scope {_GATED_SCOPE}",
            "gated",
            status,
        )
    return asked.error(
        f"{asked.repo} is gated and the token's account is not on its list: accept the conditions on its "
        "page (some owners answer by hand, which takes days); a fine-grained token also needs the scope "
        f"{_GATED_SCOPE}",
        "gated",
        status,
    )


def _no_revision(asked: Asked, status: int) -> HubError:
    return asked.error(
        f"{asked.repo} has no revision {asked.revision!r}; give a branch, a tag or a commit that it has",
        "revision",
        status,
    )


def _no_repository(asked: Asked, status: int) -> HubError:
    if asked.authenticated:
        private = "if it is private, the token's account must be able to read it"
    else:
        private = f"if it is private, {_LOGIN}"
    return asked.error(
        f"there is no {asked.repo}, neither on this machine nor on the hub; check the spelling; {private}",
        "repository",
        status,
    )


def _not_writable(asked: Asked, status: int) -> HubError:
    if not asked.authenticated:
        return asked.error(
            f"writing to {asked.repo} takes a token with write access; {_LOGIN}", "token", status
        )
    return asked.error(
        f"the token may not write to {asked.repo}; use one with write access to that namespace "
        "(a fine-grained one needs 'Write access to contents/settings of repos')",
        "forbidden",
        status,
    )
