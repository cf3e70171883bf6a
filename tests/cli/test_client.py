"""The client of the admin API against servers that are away, slow, strange or busy."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import typer

from proxyctl.client import AdminClient, checked_server, without_secrets
from proxyctl.errors import AuthError, CliError, RefusedError, UnreachableError, UsageError

Reply = tuple[int, dict[str, str], bytes]


@contextmanager
def serving(*replies: Reply) -> Iterator[tuple[str, list[tuple[str, dict[str, str]]]]]:
    """A server that gives these answers in turn, and what it was asked."""
    seen: list[tuple[str, dict[str, str]]] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            self.rfile.read(length)
            seen.append((f"{self.command} {self.path}", {k.lower(): v for k, v in self.headers.items()}))
            status, headers, body = replies[min(len(seen), len(replies)) - 1]
            if status == 0:  # hangs up after it has read the request
                self.close_connection = True
                return
            self.send_response_only(status)
            for name, value in ({"content-length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        setattr(Handler, f"do_{method}", Handler.answer)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", seen
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr("proxyctl.client.time.sleep", found.append)
    return found


def error(kind: str, message: str, field: str | None = None) -> bytes:
    return json.dumps({"error": {"type": kind, "message": message, "field": field}, "request_id": "req_1"}).encode()


OK: Reply = (200, {}, b'{"items": [], "next_cursor": null}')
BUSY: Reply = (503, {"retry-after": "2"}, error("unavailable", "try again"))
Call = Callable[[AdminClient], Any]


@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.get("/a"),
        lambda c: c.post("/a", {}),
        lambda c: c.put("/a", {}),
        lambda c: c.delete("/a"),
    ],
    ids=["get", "post", "put", "delete"],
)
@pytest.mark.parametrize("trouble", [BUSY, (429, {}, error("throttled", "slow down")), (0, {}, b"")])
def test_what_can_be_done_twice_is_tried_again(waits: list[float], call: Call, trouble: Reply) -> None:
    with serving(trouble, trouble, OK) as (url, seen):
        assert call(AdminClient(url, "t", timeout=5))["items"] == []
    assert (len(seen), len(waits)) == (3, 2)
    keys = {headers.get("idempotency-key") for _, headers in seen}
    assert len(keys) == 1  # the daemon can tell that it is the same call


def test_three_tries_are_all(waits: list[float]) -> None:
    with serving(BUSY) as (url, seen), pytest.raises(CliError, match="try again") as failure:
        AdminClient(url, "t", timeout=5).get("/a")
    assert (len(seen), failure.value.hint, failure.value.request_id) == (3, "try again in 2 s", "req_1")
    assert all(1.6 <= wait <= 2.4 for wait in waits)


def test_a_patch_and_a_sign_in_are_sent_once(waits: list[float]) -> None:
    calls: list[Call] = [lambda c: c.patch("/a", {}), lambda c: c.login("admin", "x")]
    for call in calls:
        with serving(BUSY) as (url, seen), pytest.raises(CliError):
            call(AdminClient(url, None, timeout=5))
        assert len(seen) == 1
    assert waits == []


def test_a_daemon_that_asks_for_a_long_wait_is_told_on(waits: list[float]) -> None:
    with (
        serving((429, {"retry-after": "900"}, error("throttled", "too many"))) as (url, seen),
        pytest.raises(CliError) as failure,
    ):
        AdminClient(url, "t", timeout=5).get("/a")
    assert (len(seen), failure.value.hint, waits) == (1, "try again in 900 s", [])


def test_the_token_does_not_follow_a_redirect() -> None:
    with (
        serving(OK) as (other, seen),
        serving((307, {"location": f"{other}/x"}, b"{}")) as (url, _),
        pytest.raises(CliError, match="the token is not sent there"),
    ):
        AdminClient(url, "t", timeout=5).get("/a")
    assert seen == []


@pytest.mark.parametrize("body", [b"<html>sign in to the network</html>", b'{"items": [', b"[]", b""])
def test_what_is_no_daemon_is_named_as_such(body: bytes) -> None:
    with (
        serving((200, {"content-type": "text/html"}, body)) as (url, _),
        pytest.raises(CliError, match="is it a proxyctl daemon"),
    ):
        AdminClient(url, "t", timeout=5).get("/a")


def test_a_clock_that_is_off_is_told_with_the_401() -> None:
    there = {"date": formatdate(1_700_000_000, usegmt=True)}
    with (
        serving((401, there, error("unauthenticated", "sign in first"))) as (url, _),
        pytest.raises(AuthError) as failure,
    ):
        AdminClient(url, "t", timeout=5).get("/a")
    assert "clock is +" in (failure.value.hint or "")


def test_a_refused_value_names_its_field() -> None:
    with (
        serving((422, {}, error("invalid", "must not be null", "name"))) as (url, _),
        pytest.raises(RefusedError, match="name: must not be null"),
    ):
        AdminClient(url, "t", timeout=5).post("/a", {})


def test_a_refused_connection_is_told_with_the_next_step(waits: list[float]) -> None:
    with pytest.raises(UnreachableError, match="it refused the connection") as failure:
        AdminClient("http://127.0.0.1:9", "t", timeout=5).patch("/a", {})
    assert "proxyctl serve" in (failure.value.hint or "")
    assert len(waits) == 2  # nothing was sent, so even a patch is tried again


def test_a_rehearsal_shows_the_call_without_its_secrets_and_makes_none() -> None:
    shown: list[dict[str, object]] = []
    with serving(OK) as (url, seen):
        client = AdminClient(url, "t", timeout=5, rehearse=shown.append)
        with pytest.raises(typer.Exit):
            client.put("/a", {"region": "us-east-1", "api_key": "ABSKsecret"}, version=3)
        assert client.get("/a")["items"] == []
    assert [call for call, _ in seen] == ["GET /a"]
    body = {"region": "us-east-1", "api_key": "(secret)"}
    assert shown == [{"method": "PUT", "path": "/a", "if_match": '"3"', "body": body}]
    assert without_secrets([{"a": {"aws_session_token": "x"}}]) == [{"a": {"aws_session_token": "(secret)"}}]


@pytest.mark.parametrize(
    ("server", "kept"),
    [
        (" http://127.0.0.1:8000/ ", "http://127.0.0.1:8000"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("http://localhost:8000/base/", "http://localhost:8000/base"),
        ("https://gateway.example", "https://gateway.example"),
        ("https://bücher.example", "https://bücher.example"),
    ],
)
def test_a_server_is_taken_as_it_is_meant(server: str, kept: str) -> None:
    assert checked_server(server, allow_http=False) == kept


@pytest.mark.parametrize(
    "server",
    [
        "gateway.example",
        "ftp://gateway.example",
        "http://gateway.example",
        "https://user:secret@gateway.example",
        "https://secret@gateway.example",
        "https://gateway.example:99999",
        "https://gateway.example?a=b",
        "https://",
        "http://127.0.0.1.evil.example",
        "http://[::1",
    ],
)
def test_a_server_that_cannot_be_meant_is_refused(server: str) -> None:
    with pytest.raises(UsageError, match="--server") as failure:
        checked_server(server, allow_http=False)
    assert "secret" not in failure.value.message
