"""The admin API as a client sees it. The only module that imports httpx."""

import email.utils
import ipaddress
import os
import random
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import httpx
import typer

from proxyctl.errors import (
    AuthError,
    CliError,
    ConflictError,
    NotFoundError,
    RefusedError,
    UnreachableError,
    UsageError,
)
from proxyctl.profiles import NOT_SET, Setting

BY_STATUS: dict[int, type[CliError]] = {
    401: AuthError,
    403: AuthError,
    404: NotFoundError,
    409: ConflictError,
    412: ConflictError,
    400: RefusedError,
    422: RefusedError,
}
_MAX_TIMEOUT = 86_400
_TRIES = 3
_AGAIN = (429, 502, 503, 504)
_LONGEST_WAIT = 20.0  # seconds; a daemon that asks for more is told on
_SKEW = 90.0  # seconds between two clocks before they are worth a word
_SECRETS = ("api_key", "aws_secret_access_key", "aws_session_token", "external_id", "password")


class AdminClient:
    """Talks to one daemon. Answers are the API's own JSON; failures are `CliError`s.

    A call that can be made twice is made up to three times: GET, PUT, DELETE, and POST with its Idempotency-Key.
    `note` gets a line for each answer; with `rehearse` calls that would change something are shown and not made.
    """

    def __init__(
        self,
        server: str,
        token: str | None,
        *,
        timeout: float,
        ca_bundle: Setting = NOT_SET,
        allow_http: bool = False,
        note: Callable[[str], None] | None = None,
        rehearse: Callable[[dict[str, object]], None] | None = None,
    ) -> None:
        self.server = checked_server(server, allow_http=allow_http)
        headers = {"authorization": f"Bearer {token}"} if token else {}
        bundle = ca_bundle.value
        if bundle and not os.path.isfile(bundle):  # noqa: PTH113 - a string, as httpx takes it
            raise UsageError(f"{ca_bundle.source}: {bundle} is not a file")
        if not 0 < timeout <= _MAX_TIMEOUT:
            raise UsageError(f"timeout {timeout:g}: expected seconds, more than 0, at most {_MAX_TIMEOUT}")
        self._note = note
        self._rehearse = rehearse
        self._http = httpx.Client(
            base_url=self.server,
            headers=headers,
            timeout=httpx.Timeout(timeout, connect=min(5.0, timeout)),
            transport=httpx.HTTPTransport(verify=bundle or True),
            follow_redirects=False,  # the token is for this daemon and nobody else
        )

    def close(self) -> None:
        self._http.close()

    def login(self, username: str, password: str) -> dict[str, Any]:
        """Sign in; the answer holds the token."""
        try:
            return self._object("POST", "/admin/auth/login", auth=(username, password))
        except AuthError as error:
            error.hint = (
                "the daemon printed its password at its first start; for a new one: proxyctl daemon hash-password"
            )
            raise

    def get(self, path: str, **query: object) -> dict[str, Any]:
        return self._object("GET", path, params=_given(query))

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        headers = {"idempotency-key": str(uuid.uuid4())}
        return self._object("POST", path, json=dict(body), headers=headers)

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
                    raise self._failure(answer.status_code, _document(answer), answer)
                yield from answer.iter_bytes()
        except httpx.TransportError as error:
            raise UnreachableError(f"daemon at {self.server} broke off: {error}") from error

    def raw(self, method: str, path: str, body: bytes | None) -> "httpx.Response":
        """Any call, once: the answer, whatever it is."""
        headers = {"content-type": "application/json"} if body is not None else {}
        return self._once(method, path, content=body, headers=headers)

    def _object(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        if self._rehearse is not None and _changes_something(method, options):
            headers = options.get("headers", {})
            body = without_secrets(options.get("json"))
            self._rehearse({"method": method, "path": path, "if_match": headers.get("if-match"), "body": body})
            raise typer.Exit
        answer = self._send(method, path, **options)
        if answer.status_code == 204:
            return {}
        document = _document(answer)
        if document is None:
            raise self._stranger(answer.status_code, "JSON")
        if answer.status_code >= 300:
            raise self._failure(answer.status_code, document, answer)
        return document

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """A call, again when it may be made again; the daemon's word on how long to wait counts."""
        repeatable = method in ("GET", "PUT", "DELETE") or "idempotency-key" in options.get("headers", {})
        for left in reversed(range(_TRIES)):
            try:
                answer = self._once(method, path, **options)
            except UnreachableError as error:
                never_sent = isinstance(error.__cause__, httpx.ConnectError | httpx.ConnectTimeout)
                if not left or not (repeatable or never_sent):
                    raise
                wait = 0.2 * 2 ** (_TRIES - left)
            else:
                wait = _retry_after(answer, 0.5 * 2 ** (_TRIES - left))
                if not left or not repeatable or answer.status_code not in _AGAIN or wait > _LONGEST_WAIT:
                    return answer
            time.sleep(wait * random.uniform(0.8, 1.2))  # noqa: S311 - apart from each other, not secret
        raise AssertionError("the last try returns or raises")

    def _once(self, method: str, path: str, **options: Any) -> httpx.Response:
        started = time.monotonic()
        try:
            answer = self._http.request(method, path, **options)
        except httpx.TimeoutException as error:
            raise UnreachableError(
                f"daemon at {self.server} did not answer in time", hint="--timeout SECONDS"
            ) from error
        except (httpx.LocalProtocolError, UnicodeError):  # its text would quote what cannot be sent
            raise UsageError(
                "the credential cannot be sent: it has a space, a line break or a letter that is not ASCII"
            ) from None
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        if self._note is not None:
            took = (time.monotonic() - started) * 1000
            request_id = answer.headers.get("request-id", "-")
            self._note(f"{method} {answer.url} {answer.status_code} {took:.0f} ms {request_id}")
        return answer

    def _unreachable(self, error: httpx.TransportError) -> UnreachableError:
        text = str(error)
        if "CERTIFICATE_VERIFY_FAILED" in text or "certificate verify failed" in text:
            hint = "trust the company's own authority with --ca-bundle PATH (or PROXY_CA_BUNDLE)"
            return UnreachableError(f"the certificate of {self.server} is not trusted: {text}", hint=hint)
        if "refused" in text:
            text = "it refused the connection"
        if "WRONG_VERSION_NUMBER" in text or "wrong version number" in text:
            return UnreachableError(f"{self.server} does not speak TLS", hint=self.server.replace("https:", "http:", 1))
        hint = "is it running?  start it with: proxyctl serve      or pass --server / set PROXY_SERVER"
        return UnreachableError(f"daemon at {self.server} cannot be reached: {text}", hint=hint)

    def _failure(self, status: int, document: Mapping[str, Any] | None, answer: httpx.Response) -> CliError:
        if 300 <= status < 400:
            target = urlsplit(answer.headers.get("location", "")).netloc or "another path"
            return CliError(
                f"{self.server} redirects to {target}; the token is not sent there", hint="--server with the final URL"
            )
        document = document or {}
        error = document.get("error")
        if not isinstance(error, dict) or (status == 404 and "field" not in error):
            return self._stranger(status, "a reason")
        kind = BY_STATUS.get(status, CliError)
        hint = None
        if status == 401:
            hint = "sign in with: proxyctl auth login      or set PROXY_ADMIN_TOKEN"
            if abs(skew := clock_ahead(answer) or 0.0) > _SKEW:
                hint += f"\n       this machine's clock is {skew:+.0f} s from the daemon's: a token may seem expired"
        elif status == 403 and (lacks := re.search(r"lacks the scope (\S+)", str(error.get("message")))):
            hint = f"a token that may:  proxyctl tokens create NAME --scope {lacks[1]} …"
        elif error.get("type") == "secret_already_shown":
            hint = (
                "a key: --if-exists rotate, or proxyctl keys rotate …      a token: proxyctl tokens revoke … and create"
            )
        elif (seconds := answer.headers.get("retry-after")) is not None:
            hint = f"try again in {seconds} s"
        message = str(error.get("message") or f"HTTP {status}")
        if error.get("field"):
            message = f"{error['field']}: {message}"
        return kind(message, hint=hint, request_id=document.get("request_id"))

    def _stranger(self, status: int, missing: str) -> CliError:
        return CliError(
            f"{self.server} answered HTTP {status} without {missing}: is it a proxyctl daemon?",
            hint="pass --server or set PROXY_SERVER; a proxy or a login page of the network may be in between",
        )


def checked_server(server: str, *, allow_http: bool) -> str:
    """The daemon's base URL; plain HTTP only to this machine, unless it is allowed."""
    hint = "--server http://127.0.0.1:8000"
    try:
        parts = urlsplit(server.strip())
        _ = parts.port  # a port that is none raises
    except ValueError as error:
        raise UsageError(f"--server: {error}", hint=hint) from error
    if parts.username is not None or parts.password is not None:
        raise UsageError("--server: expected no user name or password in the URL", hint="proxyctl auth login")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise UsageError(f"--server {server!r}: expected http(s)://host[:port]", hint=hint)
    if parts.scheme == "http" and not is_local(parts.hostname) and not allow_http:
        raise UsageError(
            f"--server {server!r}: plain HTTP would show the admin token to the network",
            hint="use https://, or --allow-http (PROXY_ALLOW_HTTP=1) if you know the path is private",
        )
    return server.strip().rstrip("/")


def without_secrets(body: Any) -> Any:
    """A body as it may be shown."""
    if isinstance(body, dict):
        return {
            name: "(secret)" if name in _SECRETS and value is not None else without_secrets(value)
            for name, value in body.items()
        }
    return [without_secrets(item) for item in body] if isinstance(body, list) else body


def _changes_something(method: str, options: Mapping[str, Any]) -> bool:
    """Signing in and what the API rehearses itself do not."""
    return method != "GET" and "auth" not in options and (options.get("json") or {}).get("dry_run") is not True


def _retry_after(answer: httpx.Response, default: float) -> float:
    text = answer.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 9 else default


def clock_ahead(answer: httpx.Response) -> float | None:
    """How far this machine's clock is ahead of the daemon's, in seconds; None when the answer does not say."""
    try:
        there = email.utils.parsedate_to_datetime(answer.headers.get("date", ""))
    except ValueError:
        return None
    return (datetime.now(UTC) - there.astimezone(UTC)).total_seconds()


def is_local(host: str) -> bool:
    """Whether a host is this machine."""
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
