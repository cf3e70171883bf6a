"""The admin API as a client sees it. The only module that imports httpx."""

import ipaddress
import os
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx

from proxyctl.errors import (
    AuthError,
    CliError,
    ConflictError,
    NotFoundError,
    RefusedError,
    UnreachableError,
    UsageError,
)

_BY_STATUS: dict[int, type[CliError]] = {
    401: AuthError,
    403: AuthError,
    404: NotFoundError,
    409: ConflictError,
    412: ConflictError,
    400: RefusedError,
    422: RefusedError,
}
_MAX_TIMEOUT = 86_400


class AdminClient:
    """Talks to one daemon. Answers are the API's own JSON; failures are `CliError`s."""

    def __init__(self, server: str, token: str | None, *, timeout: float) -> None:
        self.server = checked_server(server)
        headers = {"authorization": f"Bearer {token}"} if token else {}
        bundle = os.environ.get("PROXY_CA_BUNDLE")
        if bundle and not os.path.isfile(bundle):  # noqa: PTH113 - a string, as httpx takes it
            raise UsageError(f"PROXY_CA_BUNDLE: {bundle} is not a file")
        if not 0 < timeout <= _MAX_TIMEOUT:
            raise UsageError(f"timeout {timeout:g}: expected seconds, more than 0, at most {_MAX_TIMEOUT}")
        transport = httpx.HTTPTransport(retries=2, verify=bundle or True)  # retries connecting, never a sent request
        self._http = httpx.Client(
            base_url=self.server,
            headers=headers,
            timeout=httpx.Timeout(timeout, connect=min(5.0, timeout)),
            transport=transport,
            follow_redirects=False,
        )

    def close(self) -> None:
        self._http.close()

    def login(self, username: str, password: str) -> dict[str, Any]:
        """Sign in; the answer holds the token."""
        return self._object("POST", "/admin/auth/login", auth=(username, password))

    def get(self, path: str, **query: object) -> dict[str, Any]:
        return self._object("GET", path, params=_given(query))

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return self._object("POST", path, json=dict(body))

    def patch(self, path: str, body: Mapping[str, Any], *, version: int | None = None) -> dict[str, Any]:
        headers = {"if-match": f'"{version}"'} if version is not None else {}
        return self._object("PATCH", path, json=dict(body), headers=headers)

    def put(self, path: str, body: Mapping[str, Any], *, version: int | None = None) -> dict[str, Any]:
        headers = {"if-match": f'"{version}"'} if version is not None else {}
        return self._object("PUT", path, json=dict(body), headers=headers)

    def delete(self, path: str) -> dict[str, Any]:
        return self._object("DELETE", path)

    def items(self, path: str, **query: object) -> Iterator[dict[str, Any]]:
        """All items of a list, page after page."""
        cursor: str | None = None
        while True:
            page = self.get(path, **query, **({"cursor": cursor} if cursor else {}))
            if not isinstance(page.get("items"), list):
                raise self._stranger(200, "a list")
            yield from page["items"]
            cursor = page.get("next_cursor")
            if not cursor:
                return

    def stream(self, path: str, **query: object) -> Iterator[bytes]:
        """The bytes of a long answer as they arrive.

        Raises:
            UnreachableError: it broke off; what has been yielded until then is good.
        """
        try:
            with self._http.stream("GET", path, params=_given(query)) as answer:
                if answer.status_code >= 300:
                    answer.read()
                    raise self._failure(answer.status_code, _document(answer))
                yield from answer.iter_bytes()
        except httpx.TransportError as error:
            raise UnreachableError(f"daemon at {self.server} broke off: {error}") from error

    def raw(self, method: str, path: str, body: bytes | None) -> tuple[int, str]:
        """Any call: status and text, whatever they are."""
        headers = {"content-type": "application/json"} if body is not None else {}
        answer = self._send(method, path, content=body, headers=headers)
        return answer.status_code, answer.text

    def _object(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        answer = self._send(method, path, **options)
        if answer.status_code == 204:
            return {}
        document = _document(answer)
        if document is None:
            raise self._stranger(answer.status_code, "JSON")
        if answer.status_code >= 300:
            raise self._failure(answer.status_code, document)
        return document

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **options)
        except httpx.TimeoutException as error:
            raise UnreachableError(
                f"daemon at {self.server} did not answer in time", hint="--timeout SECONDS"
            ) from error
        except httpx.TransportError as error:
            raise UnreachableError(
                f"daemon at {self.server} cannot be reached: {error}",
                hint="is it running?  start it with: proxyctl serve      or pass --server / set PROXY_SERVER",
            ) from error

    def _failure(self, status: int, document: Mapping[str, Any] | None) -> CliError:
        document = document or {}
        error = document.get("error")
        if not isinstance(error, dict):
            return self._stranger(status, "a reason")
        kind = _BY_STATUS.get(status, CliError)
        hint = "sign in with: proxyctl auth login      or set PROXY_ADMIN_TOKEN" if kind is AuthError else None
        message = str(error.get("message") or f"HTTP {status}")
        return kind(message, hint=hint, request_id=document.get("request_id"))

    def _stranger(self, status: int, missing: str) -> CliError:
        return CliError(
            f"{self.server} answered HTTP {status} without {missing}: is it a proxyctl daemon?",
            hint="pass --server or set PROXY_SERVER",
        )


def checked_server(server: str) -> str:
    """The daemon's base URL; plain HTTP only to this machine, unless PROXY_ALLOW_HTTP is set."""
    parts = urlsplit(server.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
        raise UsageError(f"--server {server!r}: expected http(s)://host[:port]", hint="--server http://127.0.0.1:8000")
    if parts.scheme == "http" and not _is_local(parts.hostname) and not os.environ.get("PROXY_ALLOW_HTTP"):
        raise UsageError(
            f"--server {server!r}: plain HTTP would show the admin token to the network",
            hint="use https://, or set PROXY_ALLOW_HTTP=1 if you know the path is private",
        )
    return server.strip().rstrip("/")


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _document(answer: httpx.Response) -> dict[str, Any] | None:
    try:
        document = answer.json()
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _given(query: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value).lower() if value is True else str(value) for name, value in query.items() if value}


def stream_lines(url: str, body: Mapping[str, Any]) -> Iterator[str]:
    """Lines of a streamed answer of the data plane, as they arrive."""
    with httpx.stream("POST", url, json=dict(body), timeout=60) as answer:
        if answer.status_code != 200:
            answer.read()
            raise CliError(f"HTTP {answer.status_code}: {answer.text[:200]}")
        yield from answer.iter_lines()
