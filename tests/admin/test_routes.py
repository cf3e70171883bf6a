"""Every path of the whole daemon, as it is written and as it is not: nobody gets in without a credential."""

import asyncio
import http.client
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.dependencies.models import Dependant

from daemon.admin.app import declared_routes
from daemon.admin.scopes import NEEDS, PUBLIC
from tests.support.daemon import RunningDaemon, running_daemon

NOWHERE = "http://127.0.0.1:9"
DATA_PATHS = [
    ("POST", "/v1/messages"),
    ("POST", "/v1/messages/count_tokens"),
    ("GET", "/v1/models"),
    ("GET", "/api/oauth/usage"),
    ("POST", "/ak/ak_forged/v1/messages"),
    ("GET", "/ak/ak_forged/v1/models"),
]
FORGED = [
    {},
    {"authorization": "Bearer "},
    {"authorization": "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9."},
    {"authorization": "Bearer pt_0000000000000000000000000000000000000000000000000"},
    {"authorization": "Basic YWRtaW46YWRtaW4="},
    {"cookie": "__Host-proxyctl-session=forged; proxyctl-session=forged"},
    {"x-api-key": "ak_0000000000000000000000000000000000000000000000000"},
    {"x-forwarded-for": "127.0.0.1", "x-original-url": "/healthz", "x-http-method-override": "GET"},
]


def _written_otherwise(path: str) -> list[str]:
    head, _, tail = path[1:].partition("/")
    return [
        path + "/",
        "/" + path,
        path.upper(),
        f"/{head}/./{tail}",
        f"/{head}/../{head}/{tail}",
        f"/healthz/../{head}/{tail}",
        f"/{head}%2f{tail}",
        f"/%61{path[2:]}" if path.startswith("/a") else path + "%00",
        path + ";a=b",
        path + "?_method=GET",
    ]


def _paths() -> list[tuple[str, str]]:
    found = [
        (method, re.sub(r"\{\w+\}", "0" * 32, route.path))
        for route in declared_routes()
        for method in route.methods or ()
        if NEEDS.get(f"{method} {route.path}") != PUBLIC
    ]
    return [*found, *DATA_PATHS]


def _statuses(daemon: RunningDaemon, calls: list[tuple[str, str, dict[str, str]]]) -> list[str]:
    """The calls that were answered with something else than a refusal."""
    wrong = []
    for method, path, headers in calls:
        connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=30)
        connection.putrequest(method, path, skip_accept_encoding=True)  # sent as it is written
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.putheader("content-length", "2")
        connection.putheader("content-type", "application/json")
        connection.endheaders(b"{}")
        status = connection.getresponse().status
        connection.close()
        if status not in (400, 401, 403, 404):
            wrong.append(f"{status} {method} {path} {headers}")
    return wrong


@pytest.mark.parametrize("credential", FORGED, ids=lambda headers: " ".join(headers) or "none")
async def test_no_path_opens_to_a_forged_credential(tmp_path: Path, credential: dict[str, str]) -> None:
    calls = [(method, path, credential) for method, path in _paths()]
    assert len(calls) > 45
    async with running_daemon(tmp_path, NOWHERE) as daemon:
        assert await asyncio.to_thread(_statuses, daemon, calls) == []


async def test_no_path_opens_because_it_is_written_otherwise(tmp_path: Path) -> None:
    calls: list[tuple[str, str, dict[str, str]]] = [
        (method, other, {}) for method, path in _paths() for other in _written_otherwise(path)
    ]
    async with running_daemon(tmp_path, NOWHERE) as daemon:
        assert await asyncio.to_thread(_statuses, daemon, calls) == []


async def test_only_what_is_meant_to_be_public_is(tmp_path: Path) -> None:
    public = [("GET", "/healthz", 200), ("GET", "/readyz", 200), ("HEAD", "/api/hello", 200)]
    async with running_daemon(tmp_path, NOWHERE) as daemon:
        for method, path, status in public:
            connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=30)
            await asyncio.to_thread(connection.request, method, path)
            assert (await asyncio.to_thread(connection.getresponse)).status == status, path
            connection.close()


def test_no_call_of_the_admin_api_takes_the_way_through_a_thread() -> None:
    def calls(dependant: Dependant) -> Iterator[object]:
        yield dependant.call
        for inner in dependant.dependencies:
            yield from calls(inner)

    found = {call for route in declared_routes() for call in calls(route.dependant)}
    assert len(found) > 50
    assert [
        call for call in found if not inspect.iscoroutinefunction(call) and not inspect.isasyncgenfunction(call)
    ] == []
