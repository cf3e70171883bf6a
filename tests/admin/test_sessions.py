"""Sessions of browsers: the cookie, what another site's page cannot do with it, and viewers."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

import httpx
import pytest

from daemon.admin.app import build_admin_app
from daemon.services.errors import Throttled
from daemon.services.refusals import Refusals
from daemon.services.throttle import ROOM_CLEAN, ROOM_KNOWN, ROOM_SUSPECT, WINDOW, Throttle
from daemon.services.turns import Busy, Turns
from tests.admin.conftest import PASSWORD, Clock, Plane, build_plane
from tests.admin.test_tokens import new_token

OURS = {"sec-fetch-site": "same-origin"}
SECURE, LOOPBACK = "__Host-proxyctl-session", "proxyctl-session"


def browser(plane: Plane, cookie: str | None = None, *, host: str = "proxy.example") -> httpx.AsyncClient:
    client = plane.anonymous()
    client.base_url = httpx.URL(f"https://{host}")
    if cookie is not None:
        client.headers["cookie"] = cookie
    return client


async def sign_in(plane: Plane, **headers: str) -> httpx.Response:
    async with browser(plane) as client:
        return await client.post("/admin/auth/session", auth=("admin", PASSWORD), headers=OURS | headers)


def cookie_of(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return answer.headers["set-cookie"].partition(";")[0]


async def test_the_session_is_in_a_cookie_that_no_script_reads_and_in_nothing_else(plane: Plane) -> None:
    answer = await sign_in(plane, origin="https://proxy.example")
    name_and_value, *attributes = answer.headers["set-cookie"].split("; ")
    assert name_and_value.startswith(f"{SECURE}=ey")
    assert {a.lower() for a in attributes} == {"httponly", "secure", "samesite=strict", "path=/", "max-age=1800"}
    assert answer.json() == {
        "username": "admin", "role": "admin", "scopes": ["admin"], "expires_at": "2026-03-01T12:30:00Z",
    }  # fmt: skip
    async with browser(plane, name_and_value) as client:
        assert (await client.get("/admin/auth/session")).json() == answer.json()
        plane.clock.forward(minutes=30)
        assert (await client.get("/admin/auth/session")).status_code == 401


@pytest.mark.parametrize("origin", ["http://127.0.0.1:8000", "http://localhost:5173", "http://[::1]:8000"])
async def test_on_loopback_without_tls_the_cookie_is_another_and_believed_only_there(plane: Plane, origin: str) -> None:
    answer = await sign_in(plane, origin=origin)
    assert "secure" not in answer.headers["set-cookie"].lower()
    cookie = cookie_of(answer)
    assert cookie.startswith(f"{LOOPBACK}=")
    async with browser(plane, cookie, host=origin.removeprefix("http://")) as local:
        assert (await local.get("/admin/users")).status_code == 200
    async with browser(plane, cookie) as remote:
        assert (await remote.get("/admin/users")).status_code == 401


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({"sec-fetch-site": "same-origin"}, True),
        ({"origin": "https://proxy.example"}, True),
        ({"x-proxyctl-request": "1"}, True),
        ({}, False),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "same-site", "origin": "https://proxy.example"}, False),
        ({"sec-fetch-site": "none", "x-proxyctl-request": "1"}, False),
        ({"origin": "https://evil.example"}, False),
        ({"origin": "null"}, False),
        ({"origin": "https://proxy.example.evil.example"}, False),
    ],
)
async def test_a_change_by_cookie_has_to_come_from_our_pages(
    plane: Plane, headers: dict[str, str], allowed: bool
) -> None:
    async with browser(plane, cookie_of(await sign_in(plane))) as client:
        answer = await client.post("/admin/users", json={"name": "alice"}, headers=headers)
        assert answer.status_code == (201 if allowed else 403), answer.text
        listed = (await client.get("/admin/users", headers=headers)).json()["items"]
        assert len(listed) == allowed
        again = await client.post("/admin/auth/session", auth=("admin", PASSWORD), headers=headers)
        assert again.status_code == (200 if allowed else 403)
    async with plane.anonymous() as client:
        client.headers["authorization"] = f"Bearer {await plane.sign_in()}"
        assert (await client.post("/admin/users", json={"name": "bob"}, headers=headers)).status_code == 201


async def test_a_cookie_is_no_bearer_token_and_the_other_way_round(plane: Plane) -> None:
    cookie = cookie_of(await sign_in(plane))
    bearer = await plane.sign_in()
    async with browser(plane) as client:
        as_bearer = {"authorization": f"Bearer {cookie.partition('=')[2]}"}
        assert (await client.get("/admin/users", headers=as_bearer)).status_code == 401
        assert (await client.get("/admin/users", headers={"cookie": f"{SECURE}={bearer}"})).status_code == 401
        both = {"cookie": cookie, "authorization": "Bearer a.b.c"}
        assert (await client.get("/admin/users", headers=both)).status_code == 401


@pytest.mark.parametrize("header", ["x-http-method-override", "x-method-override", "x-http-method"])
async def test_no_get_changes_anything_whatever_it_claims_to_be(plane: Plane, header: str) -> None:
    async with browser(plane, cookie_of(await sign_in(plane))) as client:
        answer = await client.get("/admin/auth/session?_method=DELETE", headers=OURS | {header: "DELETE"})
        assert answer.status_code == 200
        assert (await client.get("/admin/auth/session")).status_code == 200


async def test_signing_out_ends_all_sessions_and_takes_the_cookies_away(plane: Plane) -> None:
    cookie, bearer = cookie_of(await sign_in(plane)), await plane.sign_in()
    async with browser(plane, cookie) as client:
        out = await client.delete("/admin/auth/session", headers=OURS)
        assert out.status_code == 204
        gone = [value.lower() for value in out.headers.get_list("set-cookie")]
        assert [value.partition("=")[0] for value in gone] == [SECURE.lower(), LOOPBACK]
        assert all("max-age=0" in value for value in gone)
        assert (await client.get("/admin/users")).status_code == 401
        headers = {"authorization": f"Bearer {bearer}"}
        assert (await client.get("/admin/users", headers=headers)).status_code == 401


async def test_a_new_password_ends_all_sessions(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    cookie, bearer = cookie_of(await sign_in(plane)), await plane.sign_in()
    monkeypatch.setattr("tests.admin.conftest.PASSWORD", "another one")
    restarted = build_plane(plane.store)
    async with browser(restarted, cookie) as client:
        assert (await client.get("/admin/users")).status_code == 401
        client.headers = httpx.Headers({"authorization": f"Bearer {bearer}"})
        assert (await client.get("/admin/users")).status_code == 401


async def look_in(plane: Plane, token: str) -> httpx.Response:
    async with browser(plane) as client:
        headers = OURS | {"authorization": f"Bearer {token}"}
        return await client.post("/admin/auth/session", headers=headers)


async def test_a_service_token_makes_a_viewer_who_changes_nothing(plane: Plane) -> None:
    token = await new_token(plane, scopes=["users:write", "usage:read"], expires_at="2026-03-01T12:10:00Z")
    answer = await look_in(plane, token["token"])
    assert answer.json() == {
        "username": "token:ci", "role": "viewer", "scopes": ["usage:read", "users:read"],
        "expires_at": "2026-03-01T12:10:00Z",
    }  # fmt: skip
    async with browser(plane, cookie_of(answer)) as client:
        assert (await client.get("/admin/users")).status_code == 200
        assert (await client.post("/admin/users", json={"name": "a"}, headers=OURS)).status_code == 403
        assert (await client.get("/admin/budgets")).status_code == 403


async def test_a_viewer_is_out_as_soon_as_the_token_is_revoked(plane: Plane, admin: httpx.AsyncClient) -> None:
    token = await new_token(plane, scopes=["users:read"])
    other = build_plane(plane.store)
    async with browser(other, cookie_of(await look_in(plane, token["token"]))) as client:
        assert (await client.get("/admin/users")).status_code == 200
        await admin.delete(f"/admin/tokens/{token['id']}")
        assert (await client.get("/admin/users")).status_code == 401
    assert (await look_in(plane, token["token"])).status_code == 401


async def test_a_viewer_who_signs_out_signs_nobody_else_out(plane: Plane, admin: httpx.AsyncClient) -> None:
    token, other = await new_token(plane, scopes=["users:read"]), await new_token(plane, "b", scopes=["users:read"])
    kept = cookie_of(await look_in(plane, other["token"]))
    async with browser(plane, cookie_of(await look_in(plane, token["token"]))) as client:
        assert (await client.delete("/admin/auth/session", headers=OURS)).status_code == 204
        assert (await client.get("/admin/users")).status_code == 401
    async with browser(plane, kept) as client:
        assert (await client.get("/admin/users")).status_code == 200
    assert (await admin.get("/admin/users")).status_code == 200
    assert (await look_in(plane, token["token"])).status_code == 200


async def test_a_token_that_may_read_nothing_and_an_unknown_one_do_not_look_in(plane: Plane) -> None:
    assert (await look_in(plane, "pt_" + "0" * 49)).status_code == 401
    token = await new_token(plane, scopes=["admin"])
    assert len((await look_in(plane, token["token"])).json()["scopes"]) > 10


async def test_the_api_is_described_on_one_page_without_scripts(plane: Plane, admin: httpx.AsyncClient) -> None:
    page = await admin.get("/docs")
    assert page.status_code == 200
    assert "<script" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for path in build_admin_app(plane.services).openapi()["paths"]:
        assert f"<code>{path}</code>" in page.text
    assert "needs keys:write" in page.text


async def test_throttled_attempts_are_one_row_a_minute(plane: Plane, admin: httpx.AsyncClient) -> None:
    async with plane.anonymous("127.0.0.9") as client:
        for _ in range(40):
            await client.post("/admin/auth/login", auth=("admin", "wrong"))
        plane.clock.forward(seconds=61)
        await client.post("/admin/auth/login", auth=("admin", "wrong"))
    rows = (await admin.get("/admin/audit", params={"action": "session.throttled"})).json()["items"]
    assert [row["after"]["attempts"] for row in rows] == [34, 1]
    assert rows[0]["after"]["addresses"] == {"127.0.0.9": 34}
    refused = (await admin.get("/admin/audit", params={"action": "session.refused"})).json()["items"]
    assert len(refused) == 6


def attempts(throttle: Throttle, addresses: list[str], account: Callable[[int], str]) -> int:
    """How many of the attempts would be checked."""
    checked = 0
    for number, address in enumerate(addresses):
        try:
            throttle.attempt(account(number), address)
        except Throttled:
            continue
        checked += 1
    return checked


def test_an_address_that_tries_many_accounts_is_braked_too() -> None:
    assert attempts(Throttle(Clock()), ["1.2.3.4"] * 100, lambda number: f"user{number}") == 10


def test_addresses_of_one_ipv6_network_count_as_one() -> None:
    assert attempts(Throttle(Clock()), [f"2001:db8::{n:x}" for n in range(1, 99)], lambda _: "admin") == 5


def test_those_who_failed_leave_room_for_those_who_did_not() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    throttle.succeeded(throttle.attempt("admin", "10.1.1.1"))
    assert attempts(throttle, [f"10.0.0.{n % 8}" for n in range(100)], lambda _: "admin") == ROOM_SUSPECT
    assert attempts(throttle, [f"10.0.1.{n}" for n in range(100)], lambda _: "admin") == ROOM_CLEAN - ROOM_SUSPECT
    assert attempts(throttle, ["10.1.1.1"], lambda _: "admin") == 1
    for _ in range(100):  # right passwords take no room
        throttle.succeeded(throttle.attempt("admin", "10.1.1.1"))
    clock.forward(seconds=WINDOW.total_seconds())
    assert attempts(throttle, [f"10.0.2.{n}" for n in range(100)], lambda _: "admin") == ROOM_CLEAN
    assert ROOM_CLEAN < ROOM_KNOWN == 60


async def test_turns_are_few_the_queue_is_short_and_the_least_suspicious_comes_first() -> None:
    turns = Turns(at_once=2, waiting=3)
    release, order, busy = asyncio.Event(), [], []
    suspicion = {"first": 9, "second": 9, "a": 5, "b": 4, "c": 7, "clean": 1, "late": 5}

    async def run(name: str) -> None:
        try:
            async with turns.turn(lambda: suspicion[name]):
                order.append(name)
                await release.wait()
        except Busy:
            busy.append(name)

    tasks = []
    for name in suspicion:
        tasks.append(asyncio.ensure_future(run(name)))
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (order, busy) == (["first", "second"], ["c", "late"])
    tasks[2].cancel()  # "a" goes away while it waits
    release.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == ["first", "second", "clean", "b"]
    async with turns.turn(lambda: 0):
        pass


def test_refusals_from_many_addresses_stay_one_small_row() -> None:
    clock, refusals = Clock(), Refusals()
    assert refusals.due(clock()) is None
    for number in range(1000):
        refusals.note(f"10.0.{number // 250}.{number % 250}", clock())
    row = refusals.due(clock())
    assert row is not None
    assert (row["attempts"], len(row["addresses"]), row["from_other_addresses"]) == (1000, 20, 980)
    refusals.note(None, clock())
    assert refusals.due(clock() + timedelta(seconds=59)) is None
    assert refusals.due(clock() + timedelta(seconds=60)) is not None
