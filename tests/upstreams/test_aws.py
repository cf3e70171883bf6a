"""Credentials for AWS: signatures that AWS would accept, and roles that are assumed without anybody waiting for it."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import botocore.auth
import pytest

from daemon.core.credentials import Ambient, AssumeRole, BedrockCredential, IamKeys
from daemon.simulator.bedrock import BedrockSimulator
from daemon.upstreams import aws
from daemon.upstreams.aws import AMBIENT_SECONDS, REFRESH_EARLY, AwsSigner, sign_request
from daemon.upstreams.base import Abortable, BodyEnd, Failure, FailureKind
from daemon.upstreams.bedrock import BedrockRequest, BedrockUpstream
from daemon.upstreams.http import HttpUpstream
from tests.support.moto import CREDENTIALS, moto_server
from tests.support.simulator import logged, running_bedrock
from tests.support.ticker import ticking

VECTORS = json.loads((Path(__file__).parent / "sigv4_vectors.json").read_text())
KEYS = IamKeys("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
ROLE = AssumeRole("arn:aws:iam::123456789012:role/bedrock", "ours-42")
ARN = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123"


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with moto_server() as url:
        yield url


@pytest.fixture(autouse=True)
def _aws(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)


@dataclass
class Sts:
    """Stands before an STS and remembers what was asked and issued. It answers while its gate is open."""

    url: str = ""
    asked: list[dict[str, str]] = field(default_factory=list)
    issued: dict[str, str] = field(default_factory=dict)
    gate: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def standing_before(url: str) -> AsyncIterator[Sts]:
    sts = Sts()
    sts.gate.set()
    where = urlsplit(url)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            size = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            body = await reader.readexactly(int(size.partition(b":")[2]))
            sts.asked.append({name: values[0] for name, values in parse_qs(body.decode()).items()})
            await sts.gate.wait()
            there, back = await asyncio.open_connection(where.hostname, where.port)
            back.write(head + body)
            answer = await there.read()
            back.close()
            found = {name: _between(answer.decode(), name) for name in ("AccessKeyId", "SecretAccessKey")}
            sts.issued[found["AccessKeyId"]] = found["SecretAccessKey"]
            writer.write(answer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    sts.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield sts
    finally:
        sts.gate.set()
        server.close()
        await server.wait_closed()


def _between(document: str, name: str) -> str:
    return document.partition(f"<{name}>")[2].partition(f"</{name}>")[0]


@dataclass
class Clock:
    ahead: timedelta = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


async def _signed(signer: AwsSigner, credential: BedrockCredential) -> dict[str, str] | Failure:
    signed = await signer.sign(credential, region="us-east-1", url="https://bedrock.test/x", headers=[], body=b"{}")
    return signed if isinstance(signed, Failure) else {name.decode(): value.decode() for name, value in signed}


async def _key_id(signer: AwsSigner, credential: BedrockCredential) -> str:
    signed = await _signed(signer, credential)
    assert not isinstance(signed, Failure), signed
    return signed["authorization"].partition("Credential=")[2].partition("/")[0]


# -- signatures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_a_signature_is_the_one_of_the_reference(vector: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    instant = datetime.strptime(vector["signed_at"], "%Y%m%dT%H%M%SZ")  # noqa: DTZ007 - botocore's clock has no zone
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: instant)
    signed = dict(
        sign_request(
            IamKeys(vector["access_key"], vector["secret_key"], vector["session_token"]),
            vector["method"],
            vector["url"],
            [(b"content-type", b"application/json")],
            vector["body"].encode(),
            vector["region"],
            vector["service"],
        )
    )
    assert signed[b"authorization"].decode() == vector["authorization"]
    assert signed[b"x-amz-date"].decode() == vector["signed_at"]
    assert signed.get(b"x-amz-security-token", b"").decode() == (vector["session_token"] or "")


def _request(credential: BedrockCredential, bedrock_id: str, *, route: Any, text: str = "hi") -> BedrockRequest:
    fields = {"model": bedrock_id} if route == "messages" else {"anthropic_version": "bedrock-2023-05-31"}
    body = {"max_tokens": 9, "messages": [{"role": "user", "content": text}], **fields}
    return BedrockRequest(
        credential=credential,
        region="us-east-1",
        route=route,
        bedrock_id=bedrock_id,
        model="claude-opus-5-5",
        stream=False,
        body=json.dumps(body).encode(),
        betas=("claude-code-20250219",) if route == "messages" else (),
        anthropic_version=None,
        first_byte_timeout=5.0,
        idle_timeout=5.0,
    )


@asynccontextmanager
async def _upstream(url: str, signer: AwsSigner) -> AsyncIterator[BedrockUpstream]:
    upstream = BedrockUpstream(
        url=url, signer=signer, new_upstream=lambda base: HttpUpstream(base, connect_timeout=1.0)
    )
    try:
        yield upstream
    finally:
        await upstream.aclose()


async def _status(upstream: BedrockUpstream, request: BedrockRequest) -> tuple[int, str]:
    """Status and name of the error of an answer that is read to its end."""
    reply = await upstream.open(request, Abortable())
    assert not isinstance(reply, Failure), reply
    while not isinstance(await reply.read(), BodyEnd):
        pass
    return reply.status, dict(reply.headers).get(b"x-amzn-errortype", b"").decode()


@pytest.mark.parametrize("text", ["hi", "x" * 300_000], ids=["small", "in a thread"])
@pytest.mark.parametrize("token", [None, "IQoJ+/="], ids=["iam", "session"])
@pytest.mark.parametrize(
    ("route", "bedrock_id"),
    [
        ("messages", "us.anthropic.claude-opus-5-5"),
        ("invoke", "us.anthropic.claude-haiku-4-5-20251001-v1:0"),
        ("invoke", ARN),
    ],
    ids=["messages", "profile", "arn"],
)
async def test_bedrock_accepts_what_is_signed_with_the_right_secret_only(
    route: str, bedrock_id: str, token: str | None, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[bool] = []

    def watched(*arguments: Any) -> Any:
        threads.append(threading.current_thread() is threading.main_thread())
        return sign_request(*arguments)

    monkeypatch.setattr(aws, "sign_request", watched)
    keys = IamKeys(KEYS.access_key_id, KEYS.secret_access_key, token)
    simulator = BedrockSimulator(secrets={KEYS.access_key_id: KEYS.secret_access_key})
    signer = AwsSigner(sts_url=None, now=Clock())
    async with running_bedrock(simulator) as (_, url), _upstream(url, signer) as upstream:
        assert await _status(upstream, _request(keys, bedrock_id, route=route, text=text)) == (200, "")
        wrong = IamKeys(keys.access_key_id, "x" * 40, token)
        status, name = await _status(upstream, _request(wrong, bedrock_id, route=route, text=text))
        assert status == 403
        assert route == "messages" or name.startswith("InvalidSignatureException")
        [served, refused] = await logged(simulator, 2)
    assert (served["auth"], served["ended"], refused["ended"]) == ("sigv4", "finished", "error")
    assert ("x-amz-security-token" in served["headers"]) == (token is not None)
    assert served["model_id"] == bedrock_id
    assert served["path"].count("/") == 3  # an ARN is one part of the path
    assert threads == [len(text) < 1000] * 2


# -- roles -------------------------------------------------------------------------------------------------------------


async def test_keys_of_an_assumed_role_are_accepted_by_bedrock(moto: str) -> None:
    async with standing_before(moto) as sts:
        simulator = BedrockSimulator(secrets=sts.issued)
        signer = AwsSigner(sts_url=sts.url, now=Clock())
        async with running_bedrock(simulator) as (_, url), _upstream(url, signer) as upstream:
            request = _request(ROLE, "us.anthropic.claude-opus-5-5", route="messages")
            assert await _status(upstream, request) == (200, "")
            assert await _status(upstream, request) == (200, "")
            served = await logged(simulator, 2)
    [asked] = sts.asked
    assert (asked["Action"], asked["RoleArn"], asked["ExternalId"]) == ("AssumeRole", ROLE.role_arn, "ours-42")
    assert all("x-amz-security-token" in entry["headers"] for entry in served)
    assert not set(sts.issued) & {KEYS.access_key_id}


async def test_a_role_without_external_id_names_none(moto: str) -> None:
    async with standing_before(moto) as sts:
        await _key_id(AwsSigner(sts_url=sts.url, now=Clock()), AssumeRole(ROLE.role_arn))
    assert "ExternalId" not in sts.asked[0]


async def test_keys_are_renewed_five_minutes_before_they_expire(moto: str) -> None:
    clock = Clock()
    async with standing_before(moto) as sts:
        signer = AwsSigner(sts_url=sts.url, now=clock)
        first = await _key_id(signer, ROLE)
        clock.ahead = timedelta(hours=1) - REFRESH_EARLY - timedelta(seconds=30)
        assert await _key_id(signer, ROLE) == first
        clock.ahead += timedelta(seconds=31)
        assert await _key_id(signer, ROLE) != first
    assert len(sts.asked) == 2


async def test_twenty_requests_assume_a_role_once_and_the_loop_goes_on(moto: str) -> None:
    async with standing_before(moto) as sts:
        sts.gate.clear()
        signer = AwsSigner(sts_url=sts.url, now=Clock())
        async with ticking() as late:
            asking = [asyncio.ensure_future(_key_id(signer, ROLE)) for _ in range(20)]
            while not sts.asked:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            asking[0].cancel()  # whoever came first may leave; the others still get their keys
            sts.gate.set()
            keys = await asyncio.gather(*asking[1:])
    assert len(sts.asked) == len(set(keys)) == 1
    assert len(late) > 3


async def test_an_sts_that_never_answers_holds_twenty_requests_for_its_time_once(
    moto: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aws, "STS_SECONDS", 1.0)
    async with standing_before(moto) as sts:
        sts.gate.clear()
        signer = AwsSigner(sts_url=sts.url, now=Clock())
        started = time.monotonic()
        async with ticking() as late:
            answers = await asyncio.gather(*(_signed(signer, ROLE) for _ in range(20)))
            took = time.monotonic() - started
            # Host names are resolved in the loop's own threads: they are free meanwhile.
            others = [AssumeRole(f"{ROLE.role_arn}{number}") for number in range(40)]
            waiting = [asyncio.ensure_future(_signed(signer, other)) for other in others]
            await asyncio.sleep(0.1)
            before = time.monotonic()
            await asyncio.to_thread(int)
            assert time.monotonic() - before < 0.9
            assert all(isinstance(answer, Failure) for answer in await asyncio.gather(*waiting))
    assert took < 3.0
    assert len(late) > 15
    for answer in answers:
        assert isinstance(answer, Failure)
        assert answer.kind is FailureKind.CREDENTIAL
        assert answer.detail == "no AWS credentials by assume_role: no answer in 1 s"


async def test_while_sts_is_away_keys_serve_until_they_expire(moto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, fetched = Clock(), 0
    fetch = AwsSigner._fetch

    def counted(*arguments: Any) -> Any:
        nonlocal fetched
        fetched += 1
        return fetch(*arguments)

    monkeypatch.setattr(AwsSigner, "_fetch", counted)
    async with standing_before(moto) as sts:
        signer = AwsSigner(sts_url=sts.url, now=clock)
        first = await _key_id(signer, ROLE)
    clock.ahead = timedelta(hours=1) - REFRESH_EARLY + timedelta(seconds=10)
    for _ in range(3):
        assert await _key_id(signer, ROLE) == first
    assert fetched == 2  # STS is not asked again with every request
    clock.ahead = timedelta(hours=1)
    answer = await _signed(signer, ROLE)
    assert isinstance(answer, Failure)
    assert "EndpointConnectionError" in answer.detail


@asynccontextmanager
async def _refusing(code: str) -> AsyncIterator[str]:
    """The URL of an STS that refuses everything."""
    body = (
        f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>User: arn:aws:iam::123456789012:user/x"
        " is not authorized</Message></Error><RequestId>r</RequestId></ErrorResponse>"
    ).encode()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 403 X\r\ncontent-type: text/xml\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_what_sts_refuses_is_named_and_nothing_else_of_it() -> None:
    async with _refusing("AccessDenied") as url:
        answer = await _signed(AwsSigner(sts_url=url, now=Clock()), ROLE)
    assert answer == Failure(FailureKind.CREDENTIAL, "no AWS credentials by assume_role: AccessDenied")


@pytest.mark.parametrize(("code", "made"), [("AccessDenied", 1), ("ExpiredToken", 3)])
async def test_a_client_of_sts_is_kept_until_its_own_credentials_are_refused(
    code: str, made: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions: list[str] = []
    new_session = aws._session
    monkeypatch.setattr(aws, "_session", lambda region: sessions.append(region) or new_session(region))
    async with _refusing(code) as url:
        signer = AwsSigner(sts_url=url, now=Clock())
        for number in range(3):
            assert isinstance(await _signed(signer, AssumeRole(f"{ROLE.role_arn}{number}")), Failure)
    assert len(sessions) == made


# -- the daemon's own --------------------------------------------------------------------------------------------------


async def test_the_daemons_own_credentials_are_read_again_after_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    signer = AwsSigner(sts_url=None, now=clock)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "IQoJ")
    signed = await _signed(signer, Ambient())
    assert not isinstance(signed, Failure)
    assert f"Credential={KEYS.access_key_id}/" in signed["authorization"]
    assert signed["x-amz-security-token"] == "IQoJ"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAOTHEREXAMPLE0000")
    assert await _key_id(signer, Ambient()) == KEYS.access_key_id
    clock.ahead = AMBIENT_SECONDS
    assert await _key_id(signer, Ambient()) == "AKIAOTHEREXAMPLE0000"


@pytest.mark.parametrize("credential", [Ambient(), ROLE], ids=["ambient", "assume role"])
async def test_without_any_credentials_the_operator_is_told(
    credential: BedrockCredential, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    answer = await _signed(AwsSigner(sts_url="http://127.0.0.1:9", now=Clock()), credential)
    assert isinstance(answer, Failure)
    assert answer.kind is FailureKind.CREDENTIAL
    assert "the daemon has none of its own" in answer.detail
