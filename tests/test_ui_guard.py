"""Who may talk to the page, asked of the guard itself: no server, no browser."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mqnative.app.ui.guard import HEADERS, Guard, Message, Receive, Rules, Scope, Send, is_loopback

LOCAL = Rules.of("127.0.0.1", 8484, None)
EVIL, PAGE = "evil.example", "localhost:8484"
SHARED = Rules.of("0.0.0.0", 8484, "secret-token")


def ask(
    rules: Rules, headers: dict[str, str], *, kind: str = "http", path: str = "/", query: str = ""
) -> tuple[bool, list[Message]]:
    """Whether the application was reached, and what was sent."""
    reached: list[Scope] = []
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        reached.append(scope)
        if scope["type"] == "http":
            await send(
                {"type": "http.response.start", "status": 200, "headers": [(b"x-frame-options", b"ok")]}
            )
            await send({"type": "http.response.body", "body": b"page"})

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    raw = [(k.encode(), v.encode("latin-1")) for k, v in headers.items()]
    scope = {"type": kind, "path": path, "query_string": query.encode(), "headers": raw}
    asyncio.run(Guard(app, rules)(scope, receive, send))
    return bool(reached), sent


def header(sent: list[Message], name: str) -> Any:
    found = {k.decode().lower(): v.decode() for k, v in sent[0]["headers"]}
    return found.get(name)


@pytest.mark.parametrize("name", ["127.0.0.1:8484", "localhost:8484", "[::1]:8484"])
def test_this_machine_is_let_through_under_each_of_its_names(name: str) -> None:
    reached, sent = ask(LOCAL, {"host": name})
    assert reached
    assert sent[0]["status"] == 200


@pytest.mark.parametrize("name", ["evil.example", "evil.example:8484", "127.0.0.1", "127.0.0.1:80", ""])
def test_a_name_that_was_made_to_point_here_is_refused(name: str) -> None:
    reached, sent = ask(LOCAL, {"host": name})
    assert not reached
    assert sent[0]["status"] == 403


@pytest.mark.parametrize(
    "origin", [f"http://{EVIL}", "http://127.0.0.1:9999", "null", "file://", "http://localhost:8484"]
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_requests_of_other_origins_are_refused(kind: str, origin: str) -> None:
    reached, sent = ask(LOCAL, {"host": "127.0.0.1:8484", "origin": origin}, kind=kind)
    assert not reached
    if kind == "websocket":
        assert [m["type"] for m in sent] == ["websocket.close"]
    else:
        assert sent[0]["status"] == 403


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_requests_of_the_page_itself_pass(kind: str) -> None:
    headers = {"host": "localhost:8484", "origin": "http://localhost:8484", "sec-fetch-site": "same-origin"}
    assert ask(LOCAL, headers, kind=kind)[0]


@pytest.mark.parametrize("dest", ["iframe", "image", "script", "empty"])
def test_other_sites_may_not_embed_or_read_the_page(dest: str) -> None:
    headers = {"host": "localhost:8484", "sec-fetch-site": "cross-site", "sec-fetch-dest": dest}
    assert not ask(LOCAL, headers | {"sec-fetch-mode": "no-cors"})[0]
    assert not ask(LOCAL, headers | {"sec-fetch-mode": "navigate"})[0]


def test_a_link_on_another_site_may_lead_here() -> None:
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert ask(LOCAL, {"host": "localhost:8484", **headers})[0]


def test_every_answer_has_the_security_headers_once() -> None:
    _, sent = ask(LOCAL, {"host": "localhost:8484"})
    names = [k.decode().lower() for k, _ in sent[0]["headers"]]
    for name, value in HEADERS.items():
        assert names.count(name) == 1
        assert header(sent, name) == value


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    "cookie", ["", "mqnative_token=wrong", "mqnative_token=", "other=secret-token", "\x01;="]
)
def test_others_need_the_token(kind: str, cookie: str) -> None:
    reached, sent = ask(SHARED, {"host": "lab:8484", "cookie": cookie}, kind=kind)
    assert not reached
    assert sent[0].get("status", 401) == 401
    assert "secret-token" not in str(sent)


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_the_token_as_a_cookie_opens_pages_and_sockets(kind: str) -> None:
    assert ask(SHARED, {"host": "lab:8484", "cookie": "a=b; mqnative_token=secret-token"}, kind=kind)[0]


def test_the_token_in_the_address_becomes_a_cookie_that_scripts_cannot_read() -> None:
    reached, sent = ask(SHARED, {"host": "lab:8484"}, path="/jobs", query="a=1&token=secret-token")
    assert not reached
    assert sent[0]["status"] == 303
    assert header(sent, "location") == "/jobs?a=1"
    assert header(sent, "set-cookie") == "mqnative_token=secret-token; Path=/; HttpOnly; SameSite=Strict"


@pytest.mark.parametrize("path", ["//evil.example/", "/\\evil.example", "///x"])
def test_the_redirect_stays_on_this_host(path: str) -> None:
    _, sent = ask(SHARED, {"host": "lab:8484"}, path=path, query="token=secret-token")
    assert header(sent, "location").startswith("/")
    assert header(sent, "location")[1] not in "/\\"


@pytest.mark.parametrize("query", ["token=wrong", "token=", "token=secret-token2", "TOKEN=secret-token"])
def test_a_wrong_token_in_the_address_opens_nothing(query: str) -> None:
    reached, sent = ask(SHARED, {"host": "lab:8484"}, query=query)
    assert not reached
    assert sent[0]["status"] == 401


def test_the_token_does_not_help_other_sites() -> None:
    headers = {"host": "lab:8484", "cookie": "mqnative_token=secret-token", "origin": f"http://{EVIL}"}
    assert not ask(SHARED, headers, kind="websocket")[0]


def test_a_page_for_others_without_a_token_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="needs a token"):
        Rules.of("0.0.0.0", 8484, None)
    with pytest.raises(ValueError, match="needs a token"):
        Rules.of("192.168.1.4", 8484, "")


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("[::1]", True), ("127.8.9.1", True),
     ("0.0.0.0", False), ("::", False), ("192.168.0.1", False), ("example", False), ("", False)],
)  # fmt: skip
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
