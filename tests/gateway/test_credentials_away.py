"""KMS or STS slow or away: the plan serves, or the client is told why; nobody else waits for it."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest

from daemon.core.credentials import ApiKey, AssumeRole, BedrockCredential, encode_credential
from daemon.gateway.bedrock import OpenKeys
from daemon.security.envelope import KMS_SECONDS, Envelope, KmsCipher, kms_client
from daemon.services.bedrock_keys import open_credential, seal_context
from daemon.services.directory import SealedBedrockKey
from daemon.upstreams import aws
from daemon.upstreams.base import Failure, FailureKind
from tests.support.moto import CREDENTIALS, REGION
from tests.support.plane import BEDROCK_API_KEY, OTHER_KEY, Arrived, parts, plane, post, sse_answer
from tests.support.wire import EVENTS, PATH, event, head, relayed, request, wire

PLAN_STREAM = b"".join(map(event, [*EVENTS[:-1], {"type": "message_stop"}]))
SEALED = SealedBedrockKey(UUID(int=3), UUID(int=2), "us-east-1", "auto", None, b"")
OTHER_PATH = PATH.replace(PATH.split("/")[2], OTHER_KEY)


@pytest.fixture(autouse=True)
def _aws(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)


@asynccontextmanager
async def silent_server() -> AsyncIterator[tuple[str, list[bytes]]]:
    """The URL of a server that takes requests and never answers, and the beginnings of what it got."""
    got: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                got.append(data)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", got
    finally:
        server.close()
        await server.wait_closed()


class _Issuing:
    """The part of KMS that seals."""

    def generate_data_key(self, **_: Any) -> dict[str, Any]:
        return {"Plaintext": bytes(32), "CiphertextBlob": b"a data key", "KeyId": "k-1"}


async def _opening_with(url: str) -> Any:
    """Opens the key of the test with KMS at `url`."""
    credential = encode_credential(ApiKey(BEDROCK_API_KEY))
    blob = await KmsCipher("k-1", client=_Issuing).seal(credential, seal_context(UUID(int=2), UUID(int=3)))
    envelope = Envelope(KmsCipher("k-1", client=lambda: kms_client(REGION, url)))
    await envelope.prepare()

    async def opening(sealed: SealedBedrockKey) -> BedrockCredential:
        return await open_credential(envelope, blob, access_key_id=sealed.access_key_id, bedrock_key_id=sealed.id)

    return opening


async def plan_serves(_: Arrived, writer: asyncio.StreamWriter) -> None:
    writer.write(sse_answer(PLAN_STREAM))


async def plan_goes_on(_: Arrived, writer: asyncio.StreamWriter) -> None:
    """A delta every 20 ms, for three seconds."""
    stream = relayed(EVENTS[:2]) + event(EVENTS[2]) * 150 + relayed(EVENTS[3:])
    writer.write(sse_answer(stream)[: -len(stream)] + relayed(EVENTS[:2]))
    for _number in range(150):
        writer.write(event(EVENTS[2]))
        await writer.drain()
        await asyncio.sleep(0.02)
    writer.write(relayed(EVENTS[3:]))


async def bedrock_serves(_: Arrived, writer: asyncio.StreamWriter) -> None:
    data = b"".join(wire("messages"))
    writer.write(head("messages", len(data)) + data)


async def test_a_kms_that_never_answers_stalls_no_other_stream_and_is_said_in_time() -> None:
    async with silent_server() as (url, got):
        opening = await _opening_with(url)
        async with plane(plan_goes_on, bedrock=bedrock_serves, opening=opening) as running:
            reader, writer = await running.raw(post(PATH, request()))
            await reader.readuntil("😀".encode())
            gaps: list[float] = []

            async def follow() -> bytes:
                last, stream = time.monotonic(), b""
                while data := await reader.read(1 << 16):
                    gaps.append(time.monotonic() - last)
                    last, stream = time.monotonic(), stream + data
                return stream

            following = asyncio.ensure_future(follow())
            running.directory.strategy = "bedrock_only"
            started = time.monotonic()
            asked = [running.ask(post(OTHER_PATH, request())) for _ in range(20)]
            answers = [parts(answer) for answer in await asyncio.gather(*asked)]
            took = time.monotonic() - started
            stream = await following
            writer.close()
            records = await running.settled(21)
    for status, headers, body in answers:
        assert (status, headers["retry-after"]) == (503, "5")
        error = json.loads(body)["error"]
        assert error["type"] == "api_error"
        assert "KMS did not answer in 2 s" in error["message"]
    assert took < KMS_SECONDS + 1.0
    assert b"".join(got).count(b"TrentService.Decrypt") == 1  # one opening for all of them
    assert b"message_stop" in stream
    assert max(gaps) < 0.5
    failures = {attempt.failure for record in records for attempt in record.attempts}
    assert failures == {None, "own_credential_unavailable"}
    assert sum(record.cost.total_nano > 0 for record in records) == 1


async def test_while_kms_does_not_answer_the_plan_serves() -> None:
    async with silent_server() as (url, _):
        opening = await _opening_with(url)
        async with plane(plan_serves, bedrock=bedrock_serves, strategy="bedrock_first", opening=opening) as running:
            started = time.monotonic()
            status, headers, body = parts(await running.ask(post(PATH, request())))
            assert time.monotonic() - started < KMS_SECONDS + 0.8
            [record] = await running.settled(1)
            assert running.bedrock is not None
            assert running.bedrock.requests == []
    assert (status, body) == (200, PLAN_STREAM)
    assert headers["x-proxy-fallback-reason"] == "own_credential_unavailable"
    assert [(attempt.provider, attempt.failure) for attempt in record.attempts] == [
        ("bedrock", "own_credential_unavailable"),
        ("plan", None),
    ]


@pytest.mark.parametrize("answers", [False, True], ids=["away", "silent"])
async def test_while_sts_is_away_or_silent_the_plan_serves(answers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aws, "STS_SECONDS", 0.7)

    async def role(_: SealedBedrockKey) -> BedrockCredential:
        return AssumeRole("arn:aws:iam::123456789012:role/bedrock")

    async with silent_server() as (url, got):
        sts = url if answers else "http://127.0.0.1:9"
        async with plane(
            plan_serves, bedrock=bedrock_serves, strategy="bedrock_first", opening=role, sts_url=sts
        ) as running:
            for _ in range(4):  # more than open a circuit: STS is nobody's provider
                status, headers, body = parts(await running.ask(post(PATH, request())))
                assert (status, body) == (200, PLAN_STREAM)
                assert headers["x-proxy-fallback-reason"] == "own_credential_unavailable"
            assert running.bedrock is not None
            assert running.bedrock.requests == []
    assert bool(got) is answers


@pytest.fixture
def clock() -> list[float]:
    return [1000.0]


def _counting(clock: list[float], *, ttl: float = 300.0) -> tuple[OpenKeys, list[UUID], asyncio.Event]:
    opened: list[UUID] = []
    gate = asyncio.Event()

    async def opening(sealed: SealedBedrockKey) -> BedrockCredential:
        opened.append(sealed.id)
        await gate.wait()
        if len(opened) == 1 and sealed.id == UUID(int=66):
            raise OSError("KMS is away")
        return ApiKey(str(sealed.id))

    return OpenKeys(opening, ttl=ttl, monotonic=lambda: clock[0]), opened, gate


def _key(number: int) -> SealedBedrockKey:
    return SealedBedrockKey(UUID(int=number), UUID(int=2), "us-east-1", "auto", None, b"")


async def test_an_opened_key_is_remembered_for_a_while(clock: list[float]) -> None:
    keys, opened, gate = _counting(clock)
    gate.set()
    for instant in (1000.0, 1299.9):
        clock[0] = instant
        assert await keys.open(_key(1)) == ApiKey(str(UUID(int=1)))
    assert len(opened) == 1
    assert await keys.open(_key(2)) == ApiKey(str(UUID(int=2)))  # a key that was replaced has another id
    clock[0] = 1300.0
    await keys.open(_key(1))
    assert opened == [UUID(int=1), UUID(int=2), UUID(int=1)]


async def test_a_key_is_opened_once_for_all_who_wait(clock: list[float]) -> None:
    keys, opened, gate = _counting(clock)
    asking = [asyncio.ensure_future(keys.open(_key(1))) for _ in range(20)]
    await asyncio.sleep(0.01)
    asking[0].cancel()
    gate.set()
    assert await asyncio.gather(*asking[1:]) == [ApiKey(str(UUID(int=1)))] * 19
    assert len(opened) == 1


async def test_a_failure_to_open_is_shared_by_those_who_wait_and_then_forgotten(clock: list[float]) -> None:
    keys, opened, gate = _counting(clock)
    asking = [asyncio.ensure_future(keys.open(_key(66))) for _ in range(20)]
    await asyncio.sleep(0.01)
    gate.set()
    answers = await asyncio.gather(*asking)
    assert all(isinstance(answer, Failure) and answer.kind is FailureKind.CREDENTIAL for answer in answers)
    assert len(opened) == 1
    assert await keys.open(_key(66)) == ApiKey(str(UUID(int=66)))
