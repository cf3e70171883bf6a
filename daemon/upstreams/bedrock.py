"""Amazon Bedrock's runtime: two wires behind one function, answers in the form of the Messages API."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from daemon.core.credentials import BedrockCredential
from daemon.core.mapping import Route
from daemon.protocol.bedrock.stream import EventStreamTranslator, SseTranslator, Translator
from daemon.upstreams.aws import AwsSigner, load_botocore
from daemon.upstreams.base import Abortable, BodyEnd, Failure, FailureKind, Headers, OutboundRequest, Reply, Upstream

EVENT_STREAM = b"application/vnd.amazon.eventstream"
PAYLOAD_LIMIT = 20 * 1000 * 1000  # AWS's limit for a request
_MESSAGES_VERSION = b"2023-06-01"


@dataclass(frozen=True, slots=True)
class BedrockRequest:
    """One request for one model in one region; `model` is the id the client asked for, and will read."""

    credential: BedrockCredential
    region: str
    route: Route
    bedrock_id: str
    model: str
    stream: bool
    body: bytes
    betas: Sequence[str]
    anthropic_version: bytes | None
    first_byte_timeout: float
    idle_timeout: float


class TranslatedReply:
    """A streaming answer of Bedrock as server-sent events."""

    def __init__(self, inner: Reply, translator: Translator) -> None:
        self._inner = inner
        self.translator = translator
        self._end: BodyEnd | None = None
        self.status = inner.status
        self.headers: Headers = [
            (name, value) for name, value in inner.headers if name not in (b"content-type", b"content-length")
        ] + [(b"content-type", b"text/event-stream; charset=utf-8")]

    async def read(self, quiet: float | None = None) -> bytes | BodyEnd:
        clock = asyncio.get_running_loop().time
        until = None if quiet is None else clock() + quiet
        while self._end is None:  # bytes that complete no event are silence for the client
            chunk = await self._inner.read(None if until is None else max(0.0, until - clock()))
            if isinstance(chunk, BodyEnd):
                events = self.translator.finish()
                self._end = self._ended(chunk.failure)
            elif not chunk:
                return chunk
            else:
                events = self.translator.feed(chunk)
                if self.translator.broken or self.translator.error:
                    self._end = self._ended(None)
                    self._inner.close()
            if events:
                return events
        return self._end

    def close(self) -> None:
        self._inner.close()

    def _ended(self, failure: Failure | None) -> BodyEnd:
        if self.translator.broken and failure is None:
            failure = Failure(FailureKind.PROTOCOL, self.translator.broken)
        if self.translator.error and failure is None:
            failure = Failure(FailureKind.PROTOCOL, self.translator.error.message)
        return BodyEnd(failure)


class BedrockUpstream:
    """All regions of Bedrock's runtime. Regions come from an allow-list; connections are pooled per region."""

    def __init__(self, *, url: str, signer: AwsSigner, new_upstream: Callable[[str], Upstream]) -> None:
        self._url = url
        self._signer = signer
        self._new_upstream = new_upstream
        self._pools: dict[str, Upstream] = {}

    async def open(self, request: BedrockRequest, line: Abortable) -> Reply | Failure:
        """Send a message request; an event stream comes back as a `TranslatedReply`."""
        headers = _headers(request)
        path = _path(request)
        reply = await self._send(request, path, headers, line)
        if isinstance(reply, Failure) or reply.status != 200:
            return reply
        kind = next((value for name, value in reply.headers if name == b"content-type"), b"")
        if kind.startswith(EVENT_STREAM):
            return TranslatedReply(reply, EventStreamTranslator(request.model))
        if kind.startswith(b"text/event-stream"):
            return TranslatedReply(reply, SseTranslator(request.model))
        return reply

    async def count_tokens(self, request: BedrockRequest, line: Abortable) -> Reply | Failure:
        """Count the tokens of a request body that is ready for invoke; `bedrock_id` is the bare model id."""
        path = f"/model/{quote(request.bedrock_id, safe='')}/count-tokens"
        return await self._send(request, path, [(b"content-type", b"application/json")], line)

    async def aclose(self) -> None:
        for pool in self._pools.values():
            await pool.aclose()

    async def _send(
        self, request: BedrockRequest, path: str, headers: list[tuple[bytes, bytes]], line: Abortable
    ) -> Reply | Failure:
        await load_botocore()
        base = self._base_url(request.region)
        signed = await self._signer.sign(
            request.credential, region=request.region, url=base + path, headers=headers, body=request.body
        )
        if isinstance(signed, Failure):
            return signed
        pool = self._pools.get(base)
        if pool is None:
            pool = self._pools[base] = self._new_upstream(base)
        outbound = OutboundRequest(
            method=b"POST",
            path=path.encode(),
            headers=[(name, value) for name, value in signed if name not in (b"host", b"content-length")],
            body=request.body,
            first_byte_timeout=request.first_byte_timeout,
            idle_timeout=request.idle_timeout,
        )
        return await pool.open(outbound, line)

    def _base_url(self, region: str) -> str:
        if self._url:
            return self._url.replace("{region}", region).rstrip("/")
        return f"https://bedrock-runtime.{region}.amazonaws.com"


def _path(request: BedrockRequest) -> str:
    if request.route == "messages":
        return "/anthropic/v1/messages"
    operation = "invoke-with-response-stream" if request.stream else "invoke"
    return f"/model/{quote(request.bedrock_id, safe='')}/{operation}"


def _headers(request: BedrockRequest) -> list[tuple[bytes, bytes]]:
    headers = [(b"content-type", b"application/json"), (b"accept-encoding", b"identity")]
    if request.route == "messages":
        headers.append((b"accept", b"text/event-stream" if request.stream else b"application/json"))
        headers.append((b"anthropic-version", request.anthropic_version or _MESSAGES_VERSION))
        if request.betas:
            headers.append((b"anthropic-beta", ",".join(request.betas).encode()))
    else:
        headers.append((b"accept", EVENT_STREAM if request.stream else b"application/json"))
    return headers
