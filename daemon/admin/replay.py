"""Idempotency-Key of POSTs: the layer between the guard and the routes. See `services/idempotency.py`."""

import asyncio
import hashlib
import json
from typing import Any

import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from daemon.protocol.asgi import App, Message, Receive, Scope, Send
from daemon.services.errors import Malformed
from daemon.services.idempotency import Asked, Idempotency, Kept
from daemon.store.engine import OUTAGES

log = structlog.get_logger()

HEADER = "idempotency-key"
_LONGEST = 255
_SECRETS = ("access_key", "token")  # fields of answers that are shown once
_SHOWN = (
    "this request was done; the secret in its answer is shown once: if it is lost, rotate the key or make a new token"
)


class Replay:
    """Answers a repeated POST with its first answer."""

    def __init__(self, app: App, *, idempotency: Idempotency) -> None:
        self._app = app
        self._idempotency = idempotency

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or "identity" not in scope["state"]:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        keys = request.headers.getlist(HEADER)
        if not keys:
            await self._app(scope, receive, send)
            return
        body = await request.body()
        asked = Asked(scope["state"]["actor"].name, _checked(keys), _fingerprint(request, body))
        kept = await self._idempotency.claim(asked)
        if kept is not None:
            await _again(kept, scope["state"]["request_id"])(scope, receive, send)
            return
        await self._first(asked, scope, _replayed(body, receive), send)

    async def _first(self, asked: Asked, scope: Scope, receive: Receive, send: Send) -> None:
        """Do the request, keep its answer, then send it: who has the answer may rely on it."""
        messages: list[Message] = []

        async def held(message: Message) -> None:
            messages.append(message)

        try:
            await self._app(scope, receive, held)
        except BaseException:
            await asyncio.shield(self._release(asked))
            raise
        kept = _kept(messages)
        await asyncio.shield(self._release(asked) if kept is None else self._keep(asked, kept))
        for message in messages:
            await send(message)

    async def _keep(self, asked: Asked, kept: Kept) -> None:
        try:
            await self._idempotency.keep(asked, kept)
        except OUTAGES:  # the change is made: its answer goes out all the same
            log.warning("an answer could not be kept for its idempotency-key")

    async def _release(self, asked: Asked) -> None:
        try:
            await self._idempotency.release(asked)
        except OUTAGES:
            log.warning("an idempotency-key stays claimed for a minute")


def _checked(keys: list[str]) -> str:
    key = keys[0]
    if len(keys) > 1 or not 0 < len(key) <= _LONGEST or not all("!" <= character <= "~" for character in key):
        raise Malformed(f"expected one text of 1 to {_LONGEST} visible ASCII characters", field=HEADER)
    return key


def _fingerprint(request: Request, body: bytes) -> str:
    target = f"{request.method} {request.url.path}?{request.url.query}\n"
    return hashlib.sha256(target.encode() + body).hexdigest()


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body once more, as one piece, then whatever comes after it."""
    is_given = False

    async def replayed() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


def _kept(messages: list[Message]) -> Kept | None:
    """What is kept of an answer; of a refusal nothing, since it changed nothing: the next try is judged anew."""
    start = messages[0]
    status = start["status"]
    if status >= 300:
        return None
    etags = [value.decode() for name, value in start["headers"] if name == b"etag"]
    text = b"".join(message.get("body", b"") for message in messages[1:])
    document: Any = json.loads(text) if text else None
    held_secret = isinstance(document, dict) and any(name in document for name in _SECRETS)
    if held_secret:
        document = {name: value for name, value in document.items() if name not in _SECRETS}
    return Kept(status, json.dumps(document), etags[0] if etags else None, held_secret)


def _again(kept: Kept, request_id: str) -> Response:
    document = json.loads(kept.document)
    headers = {"idempotent-replayed": "true"}
    if kept.held_secret:
        error = {"type": "secret_already_shown", "message": _SHOWN, "field": None}
        answer = {"error": error, "object": document, "request_id": request_id}
        return JSONResponse(answer, 409, headers)
    if kept.etag is not None:
        headers["etag"] = kept.etag
    return (
        Response(status_code=kept.status, headers=headers)
        if document is None
        else JSONResponse(document, kept.status, headers)
    )
