"""Who may talk to the page: requests of this machine's own browser, or of those who have the token.

A page on a loopback address can be reached by every site that its user visits, by requests across sites and
by names that are made to point at 127.0.0.1. So the Host header must be one of ours, and what a browser says
of a request's origin must be the page itself. Web sockets are checked before they are accepted.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

TOKEN = "token"
_COOKIE = "mqnative_token"
# Vue compiles templates in the browser, hence 'unsafe-eval'; everything comes from this server.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Rules:
    """What is let through.

    Attributes:
        hosts: values of the Host header; None lets any name through, which needs a token.
        token: what a browser has to show once; None on a loopback address.

    Raises:
        ValueError: neither of the two is given.
    """

    hosts: frozenset[str] | None
    token: str | None = None

    def __post_init__(self) -> None:
        if self.hosts is None and not self.token:
            raise ValueError("a page that answers to any name needs a token")

    @classmethod
    def of(cls, host: str, port: int, token: str | None) -> Rules:
        """For a server at this address."""
        if not is_loopback(host):
            return cls(None, token)
        names = {"localhost", "127.0.0.1", "[::1]", f"[{host}]" if ":" in host.strip("[]") else host}
        return cls(frozenset(f"{name}:{port}" for name in names), token)

    def refusal(self, kind: str, headers: Mapping[str, str]) -> str | None:
        """Why a request is refused before its token is looked at; None if it is not.

        Args:
            kind: ``http`` or ``websocket``.
            headers: by lower-case name.
        """
        host = headers.get("host", "")
        if self.hosts is not None and host not in self.hosts:
            return f"this page does not answer to the name {host!r}"
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return f"requests of other sites are refused; this one comes from {origin!r}"
        if kind == "websocket":
            return None
        site = headers.get("sec-fetch-site", "none")
        # A link on another site may lead here; nothing else of it may.
        is_link = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        if site in ("cross-site", "same-site") and not is_link:
            return "requests of other sites are refused"
        return None

    def accepts(self, token: str | None) -> bool:
        """Whether a token is the right one; any is where none is needed."""
        if not self.token:
            return True
        return token is not None and hmac.compare_digest(token.encode(), self.token.encode())


class Guard:
    """Stands before the whole application, web sockets and files included.

    Args:
        app: what is guarded.
        rules: what is let through.
    """

    def __init__(self, app: App, rules: Rules) -> None:
        self.app = app
        self.rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        kind = scope["type"]
        if kind not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = _headers(scope)
        reason = self.rules.refusal(kind, headers)
        if reason is not None:
            await _refuse(kind, 403, reason, receive, send)
            return
        if not self.rules.accepts(_cookie(headers)):
            await self._ask_for_token(scope, receive, send)
            return
        await self.app(scope, receive, _with_headers(send) if kind == "http" else send)

    async def _ask_for_token(self, scope: Scope, receive: Receive, send: Send) -> None:
        query = parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
        given = dict(query).get(TOKEN)
        if scope["type"] == "http" and given is not None and self.rules.accepts(given):
            rest = urlencode([(k, v) for k, v in query if k != TOKEN])
            # One slash: two would name another host.
            path = "/" + scope["path"].lstrip("/\\")
            cookie = f"{_COOKIE}={given}; Path=/; HttpOnly; SameSite=Strict"
            location = f"{path}?{rest}" if rest else path
            await _answer(303, "", [("location", location), ("set-cookie", cookie)], send)
            return
        await _refuse(
            scope["type"], 401, "this page needs the token: open the address that `mqnative ui` printed",
            receive, send,
        )  # fmt: skip


def _headers(scope: Scope) -> dict[str, str]:
    return {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}


def _cookie(headers: Mapping[str, str]) -> str | None:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(_COOKIE)
    except CookieError:
        return None
    return None if found is None else found.value


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [(k, v) for k, v in message["headers"] if k.decode("latin-1").lower() not in HEADERS]
            message["headers"] = [*kept, *_encoded(HEADERS.items())]
        await send(message)

    return sending


def _encoded(headers: Any) -> list[tuple[bytes, bytes]]:
    return [(k.encode("latin-1"), v.encode("latin-1", "replace")) for k, v in headers]


async def _refuse(kind: str, status: int, reason: str, receive: Receive, send: Send) -> None:
    if kind == "websocket":
        await receive()  # the handshake; closed before it is accepted, the browser gets a 403
        await send({"type": "websocket.close", "code": 1008, "reason": reason[:100]})
        return
    await _answer(status, f"{reason}\n", [], send)


async def _answer(status: int, text: str, headers: list[tuple[str, str]], send: Send) -> None:
    body = text.encode("utf-8", "replace")
    plain = [("content-type", "text/plain; charset=utf-8"), ("content-length", str(len(body)))]
    every = _encoded([*plain, ("cache-control", "no-store"), *HEADERS.items(), *headers])
    await send({"type": "http.response.start", "status": status, "headers": every})
    await send({"type": "http.response.body", "body": body})
