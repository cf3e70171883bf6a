import base64
import hashlib
import hmac
import json
import re
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from daemon.admin.app import declared_routes
from daemon.admin.scopes import ANYBODY, NEEDS, PUBLIC
from daemon.core.identity import make_access_key, make_service_token
from daemon.core.scopes import SCOPES
from tests.admin.conftest import JWT_SECRET, PASSWORD, Plane
from tests.admin.test_tokens import new_token


def _is_the_one_shape(answer: httpx.Response) -> bool:
    body = answer.json()
    return (
        set(body) == {"error", "request_id"}
        and set(body["error"]) == {"type", "message", "field"}
        and body["request_id"] == answer.headers["request-id"]
    )


def _routes(plane: Plane) -> list[tuple[str, str]]:
    document = plane.app.openapi()
    described = [
        (method.upper(), re.sub(r"\{\w+\}", "0" * 32, path))
        for path, item in document["paths"].items()
        for method in item
    ]
    return [*described, ("GET", "/openapi.json"), ("GET", "/docs")]


SIGNING_IN = {("POST", "/admin/auth/login"), ("POST", "/admin/auth/session")}


async def test_every_route_but_sign_in_needs_a_session(plane: Plane) -> None:
    routes = _routes(plane)
    assert len(routes) >= 32  # it found them
    async with plane.anonymous() as client:
        for method, path in routes:
            if (method, path) in SIGNING_IN:
                continue
            for headers in ({}, {"authorization": "Bearer a.b.c"}, {"authorization": "Basic YWRtaW46YWRtaW4="}):
                answer = await client.request(method, path, headers=headers, content=b"{")
                assert (answer.status_code, _is_the_one_shape(answer)) == (401, True), (method, path)


def test_the_enumeration_misses_no_route(plane: Plane) -> None:
    declared = {(method, re.sub(r"\{\w+\}", "0" * 32, r.path)) for r in declared_routes() for method in r.methods}
    assert declared == set(_routes(plane))


def test_every_route_says_what_it_needs() -> None:
    names = {f"{method} {route.path}" for route in declared_routes() for method in route.methods}
    assert names == set(NEEDS)
    for name, need in NEEDS.items():
        assert need in SCOPES | {PUBLIC, ANYBODY}, name
        reads = name.startswith("GET ")
        assert reads is need.endswith(":read") or need in {PUBLIC, ANYBODY, "admin"}, name


async def test_a_route_that_says_nothing_is_the_admins(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(NEEDS, "GET /admin/users")
    scopes = [scope for scope in SCOPES if scope != "admin"]
    token = (await new_token(plane, scopes=scopes))["token"]
    async with plane.anonymous() as client:
        refused = await client.get("/admin/users", headers={"authorization": f"Bearer {token}"})
        assert (refused.status_code, refused.json()["error"]["message"]) == (403, "token:ci lacks the scope admin")
        client.headers["authorization"] = f"Bearer {await plane.sign_in()}"
        assert (await client.get("/admin/users")).status_code == 200


def _session_secret() -> bytes:
    stored = hashlib.sha256(PASSWORD.encode()).hexdigest()
    return hmac.new(JWT_SECRET, f"admin\0{stored}".encode(), hashlib.sha256).digest()


def _claims(now: float, **changes: Any) -> dict[str, Any]:
    good = {"sub": "admin", "iss": "proxyctl", "aud": "proxyctl-admin", "nbf": int(now), "exp": int(now) + 600}
    return {k: v for k, v in (good | {"jti": "1", "epoch": 0} | changes).items() if v is not None}


FORGED: dict[str, dict[str, Any]] = {
    "expired": {"exp": 1_000_000},
    "not yet": {"nbf": 32_000_000_000},
    "other audience": {"aud": "other"},
    "other issuer": {"iss": "other"},
    "other user": {"sub": "root"},
    "other epoch": {"epoch": 7},
    "no expiry": {"exp": None},
    "no audience": {"aud": None},
    "no id": {"jti": None},
    "no epoch": {"epoch": None},
    "epoch as text": {"epoch": "0"},
    "expiry as text": {"exp": "tomorrow"},
    "epoch as truth": {"epoch": False},
    "name as number": {"sub": 7},
    "id as list": {"jti": ["1"]},
    "audience of the dashboard": {"aud": "proxyctl-dashboard"},
    "a service token that is none": {"token": "0" * 32},
    "a service token as number": {"token": 7},
}


async def test_a_session_signed_as_ours_is_accepted(plane: Plane) -> None:
    token = jwt.encode(_claims(plane.clock().timestamp()), _session_secret(), algorithm="HS256")
    async with plane.anonymous() as client:
        answer = await client.get("/admin/auth/session", headers={"authorization": f"Bearer {token}"})
    assert answer.status_code == 200


@pytest.mark.parametrize("changes", FORGED.values(), ids=FORGED.keys())
async def test_a_token_with_wrong_claims_is_refused(plane: Plane, changes: dict[str, Any]) -> None:
    claims = _claims(plane.clock().timestamp(), **changes)
    parts = [{"alg": "HS256", "typ": "JWT"}, claims]
    head = ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)
    signature = hmac.new(_session_secret(), head.encode(), hashlib.sha256).digest()
    token = f"{head}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"
    async with plane.anonymous() as client:
        answer = await client.get("/admin/users", headers={"authorization": f"Bearer {token}"})
    assert (answer.status_code, _is_the_one_shape(answer)) == (401, True)


RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


async def test_tokens_with_forged_signatures_are_refused(plane: Plane) -> None:
    claims, secret = _claims(plane.clock().timestamp()), _session_secret()
    good = jwt.encode(claims, secret, algorithm="HS256")
    forged = [
        jwt.encode(claims, None, algorithm="none"),
        jwt.encode(claims, secret * 2, algorithm="HS512"),
        jwt.encode(claims, JWT_SECRET, algorithm="HS256"),
        jwt.encode(claims, b"x" * 32, algorithm="HS256", headers={"kid": "../../dev/null"}),
        jwt.encode(claims, b"x" * 32, algorithm="HS256", headers={"jwk": {"kty": "oct", "k": "eA"}}),
        jwt.encode(claims, b"x" * 32, algorithm="HS256", headers={"jku": "https://evil.example/keys"}),
        jwt.encode(claims, RSA_KEY, algorithm="RS256"),
        good.replace(".", ".."),
        f"{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode()}.{good}",
        make_service_token(bytes(32)),
        make_service_token(bytes(32))[:-1] + "x",
        make_access_key(bytes(32)),
        "pt_",
        "pt_" + "0" * 100_000,
        good[:-4],
        good.rsplit(".", 1)[0] + ".",
        "a" * 100_000,
        "",
    ]
    async with plane.anonymous() as client:
        for token in forged:
            answer = await client.get("/admin/users", headers={"authorization": f"Bearer {token}"})
            assert answer.status_code == 401, token[:60]


async def test_signing_out_ends_every_session(plane: Plane, admin: httpx.AsyncClient) -> None:
    other = {"authorization": f"Bearer {await plane.sign_in()}"}
    assert (await admin.delete("/admin/auth/session")).status_code == 204
    assert (await admin.get("/admin/auth/session")).status_code == 401
    assert (await admin.get("/admin/users", headers=other)).status_code == 401


async def test_a_session_ends_after_half_an_hour(plane: Plane, admin: httpx.AsyncClient) -> None:
    assert (await admin.get("/admin/auth/session")).json()["expires_at"] == "2026-03-01T12:30:00Z"
    plane.clock.forward(seconds=1800)
    assert (await admin.get("/admin/users")).status_code == 401


@pytest.mark.parametrize(
    "credentials",
    [
        "admin:wrong",
        "nobody:" + PASSWORD,
        ":",
        "admin:",
        "ädmin:x",
        "admin:\0",
        "admin:" + "x" * 100,
        "no colon",
    ],
)
async def test_wrong_credentials_get_the_same_401(plane: Plane, credentials: str) -> None:
    header = "Basic " + base64.b64encode(credentials.encode()).decode()
    async with plane.anonymous() as client:
        answer = await client.post("/admin/auth/login", headers={"authorization": header})
    assert (answer.status_code, _is_the_one_shape(answer)) == (401, True)


async def test_odd_credentials_are_refused(plane: Plane) -> None:
    async with plane.anonymous() as client:
        for header, status in (("Basic !!!", 401), ("Basic " + "A" * 1_000_000, 413), ("Digest x", 401)):
            answer = await client.post("/admin/auth/login", headers={"authorization": header})
            assert answer.status_code == status
        two = [("authorization", "Basic YQ=="), ("authorization", "Basic Yg==")]
        assert (await client.post("/admin/auth/login", headers=two)).status_code == 400
        assert (await client.post("/admin/auth/login")).status_code == 401


async def test_the_sixth_attempt_in_a_minute_has_to_wait(plane: Plane) -> None:
    async with plane.anonymous() as client:
        for _ in range(5):
            assert (await client.post("/admin/auth/login", auth=("admin", "wrong"))).status_code == 401
        blocked = await client.post("/admin/auth/login", auth=("admin", PASSWORD))
        assert (blocked.status_code, blocked.headers["retry-after"]) == (429, "60")
        assert _is_the_one_shape(blocked)
        plane.clock.forward(seconds=60)
        assert (await client.post("/admin/auth/login", auth=("admin", "wrong"))).status_code == 401
        again = await client.post("/admin/auth/login", auth=("admin", "wrong"))
        assert (again.status_code, again.headers["retry-after"]) == (429, "120")
    async with plane.anonymous("127.0.0.2") as client:
        assert (await client.post("/admin/auth/login", auth=("admin", PASSWORD))).status_code == 200


async def test_sign_ins_are_audited(plane: Plane, admin: httpx.AsyncClient) -> None:
    await admin.post("/admin/auth/login", auth=("eve", "wrong"))
    entries = (await admin.get("/admin/audit")).json()["items"]
    assert [(entry["actor"], entry["action"]) for entry in entries] == [
        ("eve", "session.refused"),
        ("admin", "session.create"),
    ]
