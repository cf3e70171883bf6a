"""Sealed blobs: whatever happens to one, or to KMS, no plaintext comes out and nothing waits for long."""

import asyncio
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.security.envelope import (
    KMS_SECONDS,
    Cipher,
    Envelope,
    KmsCipher,
    LocalCipher,
    SealBroken,
    SealUnavailable,
    SealUnconfigured,
    build_envelope,
    kms_client,
    sealed_by,
)
from tests.support.moto import CREDENTIALS, REGION, moto_server

SECRET = b"ABSK-the-secret-of-this-test"
CONTEXT = {"purpose": "bedrock-key", "access_key_id": "0198", "bedrock_key_id": "0199"}
KEY = bytes(range(32))
OTHER_CONTEXTS = (
    {},
    {"purpose": "bedrock-key"},
    CONTEXT | {"access_key_id": "0197"},
    CONTEXT | {"purpose": "webhook"},
    CONTEXT | {"more": ""},
    {"purpose": "bedrock-key", "access_key_id": "0199", "bedrock_key_id": "0198"},
)


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with moto_server() as url:
        yield url


PATIENT = 30.0  # where it is not about time: a busy machine is no KMS that is away


@pytest.fixture(autouse=True)
def _aws(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)


def _new_key(url: str) -> str:
    return str(kms_client(REGION, url, seconds=PATIENT).create_key()["KeyMetadata"]["Arn"])


def _kms(url: str, key_id: str = "alias/any", *, seconds: float = PATIENT) -> KmsCipher:
    return KmsCipher(key_id, client=lambda: kms_client(REGION, url, seconds=seconds), timeout=seconds)


@pytest.fixture
def kms(moto: str) -> KmsCipher:
    return _kms(moto, _new_key(moto))


@pytest.fixture(params=["local", "kms"])
def cipher(request: pytest.FixtureRequest) -> Cipher:
    return LocalCipher(KEY) if request.param == "local" else request.getfixturevalue("kms")  # type: ignore[no-any-return]


async def _never_opens(cipher: Cipher | Envelope, blob: bytes, context: dict[str, str] = CONTEXT) -> None:
    with pytest.raises((SealBroken, SealUnavailable)) as caught:
        await cipher.open(blob, context)
    assert SECRET.decode() not in str(caught.value)


async def test_what_was_sealed_opens_and_is_not_in_the_blob(cipher: Cipher) -> None:
    blobs = [await cipher.seal(SECRET, CONTEXT) for _ in range(2)]
    assert blobs[0] != blobs[1]
    for blob in blobs:
        assert SECRET not in blob
        assert sealed_by(blob) == cipher.mode
        assert await cipher.open(blob, dict(reversed(CONTEXT.items()))) == SECRET


async def test_no_byte_can_be_changed(cipher: Cipher) -> None:
    blob = await cipher.seal(SECRET, CONTEXT)
    flips = range(1, 256) if cipher.mode == "local" else (1,)
    for offset in range(len(blob)):
        for flip in flips:
            await _never_opens(cipher, blob[:offset] + bytes([blob[offset] ^ flip]) + blob[offset + 1 :])


async def test_no_byte_can_be_cut_or_added(cipher: Cipher) -> None:
    blob = await cipher.seal(SECRET, CONTEXT)
    for length in range(len(blob)):
        await _never_opens(cipher, blob[:length])
    await _never_opens(cipher, blob + b"\0")
    await _never_opens(cipher, b"\0" + blob)


@pytest.mark.parametrize("context", OTHER_CONTEXTS)
async def test_a_blob_does_not_open_for_another_object(cipher: Cipher, context: dict[str, str]) -> None:
    with pytest.raises(SealBroken):
        await cipher.open(await cipher.seal(SECRET, CONTEXT), context)


async def test_parts_of_two_blobs_do_not_make_one(cipher: Cipher) -> None:
    mine, other = await cipher.seal(SECRET, CONTEXT), await cipher.seal(SECRET, OTHER_CONTEXTS[2])
    assert len(mine) == len(other)
    for cut in range(1, len(mine)):
        if mine[:cut] != other[:cut] and mine[cut:] != other[cut:]:
            await _never_opens(cipher, mine[:cut] + other[cut:])


async def test_another_local_key_opens_nothing() -> None:
    blob = await LocalCipher(KEY).seal(SECRET, CONTEXT)
    other = LocalCipher(bytes(32))
    with pytest.raises(SealBroken):
        await other.open(blob, CONTEXT)
    forged = blob.replace(LocalCipher(KEY)._key_id.encode(), other._key_id.encode())
    with pytest.raises(SealBroken):
        await other.open(forged, CONTEXT)


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_local_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        LocalCipher(bytes(length))


@given(st.binary(max_size=200))
def test_noise_never_opens_and_never_fails_otherwise(noise: bytes) -> None:
    for blob in (noise, b"CCP1" + noise, b"CCP1\1\0\0\0\0" + noise, b"CCP1\2\0\1\0\1" + noise):
        with pytest.raises((SealBroken, SealUnconfigured)):
            asyncio.run(Envelope(LocalCipher(KEY)).open(blob, CONTEXT))


async def test_another_kms_key_does_not_open_and_an_older_one_of_the_account_does(moto: str) -> None:
    old, new = _new_key(moto), _new_key(moto)
    blob = await _kms(moto, old).seal(SECRET, CONTEXT)
    assert await _kms(moto, new).open(blob, CONTEXT) == SECRET
    assert await _kms(moto, new.rpartition("/")[2]).open(blob, CONTEXT) == SECRET
    client = _Recorder()
    with pytest.raises(SealUnavailable):
        await KmsCipher("arn:aws:kms:us-east-1:999999999999:alias/x", client=lambda: client).open(blob, CONTEXT)
    assert client.asked[0]["KeyId"] == f"arn:aws:kms:us-east-1:999999999999:key/{old.rpartition('/')[2]}"
    assert client.asked[0]["EncryptionContext"] == CONTEXT


class _Recorder:
    """A KMS client that answers nothing of use."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def decrypt(self, **parameters: Any) -> dict[str, Any]:
        self.asked.append(parameters)
        return {}

    generate_data_key = decrypt


async def test_what_is_not_kms_is_said_to_be_none() -> None:
    with pytest.raises(SealUnavailable, match="PROXY_KMS_URL"):
        await KmsCipher("k", client=_Recorder).seal(SECRET, CONTEXT)


async def test_with_kms_the_local_key_still_opens(kms: KmsCipher) -> None:
    local = LocalCipher(KEY)
    older = await local.seal(SECRET, CONTEXT)
    both = Envelope(kms, local)
    newer = await both.seal(SECRET, CONTEXT)
    assert (sealed_by(older), sealed_by(newer)) == ("local", "kms")
    assert [await both.open(blob, CONTEXT) for blob in (older, newer)] == [SECRET, SECRET]
    with pytest.raises(SealUnconfigured, match="PROXY_LOCAL_ENCRYPTION_KEY"):
        await Envelope(kms).open(older, CONTEXT)
    with pytest.raises(SealUnconfigured, match="PROXY_KMS_KEY_ID"):
        await Envelope(local).open(newer, CONTEXT)


async def test_without_any_key_the_settings_are_named() -> None:
    with pytest.raises(SealUnconfigured, match="PROXY_KMS_KEY_ID or PROXY_LOCAL_ENCRYPTION_KEY"):
        await Envelope(None).seal(SECRET, CONTEXT)


async def test_an_installation_seals_with_kms_where_a_key_is_named(moto: str) -> None:
    arn = _new_key(moto)
    envelope = build_envelope(kms_key_id=arn, kms_url=moto, region="eu-west-1", local_key=KEY)
    blob = await envelope.seal(SECRET, CONTEXT)  # in the key's own region, not in the installation's
    assert (sealed_by(blob), await envelope.open(blob, CONTEXT)) == ("kms", SECRET)
    alone = build_envelope(kms_key_id=None, kms_url="", region="eu-west-1", local_key=KEY)
    assert sealed_by(await alone.seal(SECRET, CONTEXT)) == "local"


async def test_a_kms_key_that_is_not_there_is_named(moto: str) -> None:
    with pytest.raises(SealUnavailable, match="NotFoundException: check PROXY_KMS_KEY_ID"):
        await _kms(moto, "11111111-2222-3333-4444-555555555555").seal(SECRET, CONTEXT)


@asynccontextmanager
async def _ticking() -> AsyncIterator[list[float]]:
    """By how much the loop was late at each tick, while the body runs."""
    late: list[float] = []

    async def tick() -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            late.append(time.monotonic() - before - 0.01)

    ticker = asyncio.ensure_future(tick())
    try:
        yield late
    finally:
        ticker.cancel()


async def _unavailable(cipher: KmsCipher, blob: bytes | None, says: str) -> None:
    """Within the time, with the reason, and while the loop goes on. Seals when there is no blob to open."""
    await cipher.prepare()
    started = time.monotonic()
    async with _ticking() as late:
        with pytest.raises(SealUnavailable, match=says) as caught:
            await (cipher.seal(SECRET, CONTEXT) if blob is None else cipher.open(blob, CONTEXT))
        took = time.monotonic() - started
        await asyncio.sleep(0.05)
    assert SECRET.decode() not in str(caught.value)
    print(f"{says}: {took:.3f} s, {len(late)} ticks, the loop was late by {max(late) * 1000:.0f} ms at most")
    assert len(late) > took * 10  # of a hundred in a second; a tenth is enough for a busy machine


@pytest.fixture
async def sealed(kms: KmsCipher) -> bytes:
    return await kms.seal(SECRET, CONTEXT)


async def test_a_kms_that_is_down_is_said_at_once(sealed: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        down = _kms(f"http://127.0.0.1:{free.getsockname()[1]}")
    await _unavailable(down, None, "EndpointConnectionError")
    await _unavailable(down, sealed, "EndpointConnectionError")


async def test_a_kms_that_never_answers_holds_nobody_for_longer_than_its_time(sealed: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=128) as silent:
        slow = _kms(f"http://127.0.0.1:{silent.getsockname()[1]}", seconds=KMS_SECONDS)
        await _unavailable(slow, None, "did not answer in 2 s")
        started = time.monotonic()
        answers = await asyncio.gather(*(slow.open(sealed, CONTEXT) for _ in range(20)), return_exceptions=True)
        assert time.monotonic() - started < 20 * KMS_SECONDS / 2  # not one after the other
        assert all(isinstance(answer, SealUnavailable) for answer in answers)


class _Refusing(BaseHTTPRequestHandler):
    code = ""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        body = json.dumps({"__type": self.code, "message": "no"}).encode()
        self.send_response(400)
        self.send_header("content-type", "application/x-amz-json-1.1")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def refusing() -> Iterator[Callable[[str], str]]:
    servers: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def start(code: str) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Refusing,), {"code": code}))
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("AccessDeniedException", "allow kms:GenerateDataKey and kms:Decrypt"),
        ("ThrottlingException", "KMS answered ThrottlingException"),
        ("DisabledException", "enable the key of PROXY_KMS_KEY_ID"),
        ("KMSInvalidStateException", "pending deletion"),
        ("odd code <script>", "KMS answered an error"),
    ],
)
async def test_a_kms_that_refuses_is_quoted_with_what_to_do(
    refusing: Callable[[str], str], sealed: bytes, code: str, says: str
) -> None:
    cipher = _kms(refusing(code))
    await _unavailable(cipher, None, says)
    await _unavailable(cipher, sealed, says)


@pytest.mark.parametrize("code", ["InvalidCiphertextException", "IncorrectKeyException", "ValidationException"])
async def test_a_blob_that_kms_does_not_accept_is_broken(
    refusing: Callable[[str], str], sealed: bytes, code: str
) -> None:
    with pytest.raises(SealBroken):
        await _kms(refusing(code)).open(sealed, CONTEXT)


async def test_a_daemon_without_credentials_says_so(monkeypatch: pytest.MonkeyPatch, moto: str) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(SealUnavailable, match="no AWS credentials"):
        await _kms(moto).seal(SECRET, CONTEXT)


async def test_kms_serves_again_after_an_outage_of_its_client(moto: str) -> None:
    key, attempts = _new_key(moto), iter([OSError("no route"), OSError("no route"), None])

    def client() -> Any:
        failure = next(attempts)
        if failure:
            raise failure
        return kms_client(REGION, moto)

    cipher = KmsCipher(key, client=client)
    await Envelope(cipher).prepare()  # fails, and says nothing
    with pytest.raises(SealUnavailable, match="OSError"):
        await cipher.seal(SECRET, CONTEXT)
    assert await cipher.open(await cipher.seal(SECRET, CONTEXT), CONTEXT) == SECRET


def test_importing_the_module_does_not_import_boto3() -> None:
    code = "import sys, daemon.security.envelope; assert not {'boto3', 'botocore'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
