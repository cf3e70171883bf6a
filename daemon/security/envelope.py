"""Sealed blobs: a secret that only its key opens, for the one object it was sealed for.

    CCP1 | mode | lengths | key id | encrypted data key | nonce | ciphertext and tag

AES-256-GCM. Everything before the ciphertext is authenticated, and so is the context: a blob that was moved to
another row opens as little as one that was changed. Local mode encrypts with the key of the installation; KMS mode
with a data key of its own for each secret, which KMS made and KMS alone decrypts, under the same context.
"""

import asyncio
import hashlib
import json
import os
import struct
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

T = TypeVar("T")
Mode = Literal["local", "kms"]
Context = Mapping[str, str]
KMS_SECONDS = 2.0
KEY_BYTES = 32

_MAGIC = b"CCP1"
_FIXED = struct.Struct(">4sBHH")
_MODES: dict[int, Mode] = {1: "local", 2: "kms"}
_MODE_BYTES = {mode: byte for byte, mode in _MODES.items()}
_NONCE_BYTES = 12
_TAG_BYTES = 16
_LARGEST_DATA_KEY = 6144  # what KMS takes
_CLIENT_SECONDS = 10.0  # importing boto3 and finding credentials, once
_KMS_THREADS = 4
_SETTINGS = {"local": "PROXY_LOCAL_ENCRYPTION_KEY", "kms": "PROXY_KMS_KEY_ID"}
_BROKEN_CODES = frozenset({"InvalidCiphertextException", "IncorrectKeyException", "ValidationException"})
_ADVICE = {
    "AccessDeniedException": "allow kms:GenerateDataKey and kms:Decrypt to the daemon's AWS credentials",
    "NotFoundException": "check PROXY_KMS_KEY_ID and its region",
    "DisabledException": "enable the key of PROXY_KMS_KEY_ID",
    "KMSInvalidStateException": "the key of PROXY_KMS_KEY_ID is pending deletion or not ready",
    "ValidationException": "check PROXY_KMS_KEY_ID",
}


class SealBroken(Exception):
    """A blob that cannot be opened: changed, cut, moved to another context, or sealed with another key."""

    def __init__(self) -> None:
        super().__init__("the sealed secret cannot be opened: it was changed, moved, or sealed with another key")


class SealUnavailable(Exception):
    """Nothing can be sealed or opened just now; the message says what to do about it, and holds no secret."""


class SealUnconfigured(SealUnavailable):
    """There is no key to seal or to open with; the message names the setting."""


class Cipher(Protocol):
    """Seals and opens secrets."""

    @property
    def mode(self) -> Mode:
        """What its blobs say they were sealed with."""

    async def seal(self, plaintext: bytes, context: Context) -> bytes:
        """A blob that opens with the same context only.

        Raises:
            SealUnavailable
        """

    async def open(self, blob: bytes, context: Context) -> bytes:
        """What was sealed.

        Raises:
            SealBroken, SealUnavailable
        """


class LocalCipher:
    """Seals with one 32-byte key of the installation."""

    mode: Mode = "local"

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"expected a key of {KEY_BYTES} bytes")
        self._key = key
        self._key_id = hashlib.sha256(b"proxyctl local key\0" + key).hexdigest()[:16]

    async def seal(self, plaintext: bytes, context: Context) -> bytes:
        return _encrypt(self._key, plaintext, context, mode="local", key_id=self._key_id, data_key=b"")

    async def open(self, blob: bytes, context: Context) -> bytes:
        header = _parse(blob)
        if header.mode != "local" or header.key_id != self._key_id or header.data_key:
            raise SealBroken
        return _decrypt(self._key, header, context)


class KmsCipher:
    """Seals with a data key from KMS for each secret.

    `client` makes a boto3 KMS client; it is called once, in a thread, when KMS is first needed. All calls run in
    threads of their own: the loop's default ones resolve host names, and must not wait for KMS.
    """

    mode: Mode = "kms"

    def __init__(self, key_id: str, *, client: Callable[[], Any], timeout: float = KMS_SECONDS) -> None:
        self._key_id = key_id
        self._make_client = client
        self._timeout = timeout
        self._client: Any = None
        self._making = threading.Lock()
        self._threads = ThreadPoolExecutor(_KMS_THREADS, thread_name_prefix="kms")

    async def prepare(self) -> None:
        """Make the client before anybody waits: boto3 reads its models in one go, and everything stands still."""
        with suppress(SealUnavailable):  # it is tried again when it is needed
            await self._in_thread(self._connect, seconds=_CLIENT_SECONDS)

    async def seal(self, plaintext: bytes, context: Context) -> bytes:
        answer = await self._call("generate_data_key", KeyId=self._key_id, KeySpec="AES_256", **_kms_context(context))
        try:
            key, data_key, key_id = answer["Plaintext"], answer["CiphertextBlob"], answer["KeyId"]
        except KeyError:
            raise SealUnavailable("what answered is not KMS: check PROXY_KMS_URL") from None
        return _encrypt(key, plaintext, context, mode="kms", key_id=key_id, data_key=data_key)

    async def open(self, blob: bytes, context: Context) -> bytes:
        header = _parse(blob)
        if header.mode != "kms" or not header.key_id or not 0 < len(header.data_key) <= _LARGEST_DATA_KEY:
            raise SealBroken
        key_id = _within_account(self._key_id, header.key_id)
        answer = await self._call("decrypt", KeyId=key_id, CiphertextBlob=header.data_key, **_kms_context(context))
        if len(answer.get("Plaintext", b"")) != KEY_BYTES:
            raise SealUnavailable("what answered is not KMS: check PROXY_KMS_URL")
        return _decrypt(answer["Plaintext"], header, context)

    async def _call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        if self._client is None:
            await self._in_thread(self._connect, seconds=_CLIENT_SECONDS)
        call = partial(getattr(self._client, operation), **parameters)
        answer: dict[str, Any] = await self._in_thread(partial(_translated, call, operation), seconds=self._timeout)
        return answer

    async def _in_thread(self, call: Callable[[], T], *, seconds: float) -> T:
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except TimeoutError:
            raise SealUnavailable(f"KMS did not answer in {seconds:g} s: check the network, PROXY_KMS_URL") from None

    def _connect(self) -> None:
        with self._making:
            if self._client is None:
                self._client = _translated(self._make_client, "connect")


class Envelope:
    """Seals with one cipher, opens what any of them sealed."""

    def __init__(self, sealer: Cipher | None, *openers: Cipher) -> None:
        self._sealer = sealer
        self._openers = {cipher.mode: cipher for cipher in (*openers, *([sealer] if sealer else []))}

    async def prepare(self) -> None:
        """Do at the start what the first use would otherwise wait for. Never fails."""
        for cipher in self._openers.values():
            if isinstance(cipher, KmsCipher):
                await cipher.prepare()

    async def seal(self, plaintext: bytes, context: Context) -> bytes:
        """A blob that opens with the same context only.

        Raises:
            SealUnconfigured: there is no key to seal with.
            SealUnavailable: KMS cannot be asked, or refuses.
        """
        if self._sealer is None:
            raise SealUnconfigured("nothing seals secrets here: set PROXY_KMS_KEY_ID or PROXY_LOCAL_ENCRYPTION_KEY")
        return await self._sealer.seal(plaintext, context)

    async def open(self, blob: bytes, context: Context) -> bytes:
        """What was sealed.

        Raises:
            SealBroken: the blob was changed or cut, belongs to another context, or to another key.
            SealUnconfigured: it was sealed in a mode for which there is no key here.
            SealUnavailable: KMS cannot be asked, or refuses.
        """
        mode = _parse(blob).mode
        opener = self._openers.get(mode)
        if opener is None:
            raise SealUnconfigured(f"the secret was sealed with the key of {_SETTINGS[mode]}, which is not set")
        return await opener.open(blob, context)


def build_envelope(*, kms_key_id: str | None, kms_url: str, region: str, local_key: bytes | None) -> Envelope:
    """The envelope of an installation: KMS seals where a key is named, the local key still opens what it sealed."""
    local = LocalCipher(local_key) if local_key is not None else None
    if kms_key_id is None:
        return Envelope(local)
    parts = kms_key_id.split(":")
    of_key = parts[3] if kms_key_id.startswith("arn:") and len(parts) > 5 else region
    kms = KmsCipher(kms_key_id, client=partial(kms_client, of_key, kms_url or None))
    return Envelope(kms, *([local] if local else []))


def kms_client(region: str, endpoint_url: str | None, *, seconds: float = KMS_SECONDS) -> Any:
    """A boto3 client that tries once and gives up after `seconds`."""
    import boto3  # imported here: it takes a third of a second
    from botocore.config import Config

    config = Config(
        connect_timeout=seconds,
        read_timeout=seconds,
        retries={"total_max_attempts": 1, "mode": "standard"},
        max_pool_connections=_KMS_THREADS,
    )
    return boto3.session.Session().client("kms", region_name=region, endpoint_url=endpoint_url, config=config)


def sealed_by(blob: bytes) -> Mode:
    """What a blob says it was sealed with. Only opening it proves that it is true.

    Raises:
        SealBroken: it is not a blob.
    """
    return _parse(blob).mode


@dataclass(frozen=True, slots=True)
class _Parsed:
    mode: Mode
    key_id: str
    data_key: bytes
    authenticated: bytes  # the whole header
    nonce: bytes
    ciphertext: bytes


def _parse(blob: bytes) -> _Parsed:
    try:
        magic, mode, key_id_length, data_key_length = _FIXED.unpack_from(blob)
        key_id_end = _FIXED.size + key_id_length
        data_key_end = key_id_end + data_key_length
        end = data_key_end + _NONCE_BYTES
        if magic != _MAGIC or mode not in _MODES or len(blob) < end + _TAG_BYTES:
            raise SealBroken
        return _Parsed(
            mode=_MODES[mode],
            key_id=blob[_FIXED.size : key_id_end].decode("ascii"),
            data_key=blob[key_id_end:data_key_end],
            authenticated=blob[:end],
            nonce=blob[data_key_end:end],
            ciphertext=blob[end:],
        )
    except (struct.error, UnicodeDecodeError):
        raise SealBroken from None


def _encrypt(key: bytes, plaintext: bytes, context: Context, *, mode: Mode, key_id: str, data_key: bytes) -> bytes:
    name = key_id.encode("ascii")
    fixed = _FIXED.pack(_MAGIC, _MODE_BYTES[mode], len(name), len(data_key))
    nonce = os.urandom(_NONCE_BYTES)
    header = fixed + name + data_key + nonce
    return header + AESGCM(key).encrypt(nonce, plaintext, header + _canonical(context))


def _decrypt(key: bytes, parsed: _Parsed, context: Context) -> bytes:
    try:
        return AESGCM(key).decrypt(parsed.nonce, parsed.ciphertext, parsed.authenticated + _canonical(context))
    except InvalidTag:
        raise SealBroken from None


def _canonical(context: Context) -> bytes:
    return json.dumps(dict(context), sort_keys=True, separators=(",", ":")).encode()


def _kms_context(context: Context) -> dict[str, Any]:
    return {"EncryptionContext": dict(context)}


def _within_account(configured: str, recorded: str) -> str:
    """The recorded key, but only in the account and region of the configured one.

    So an older key still opens its blobs, and a blob that somebody sealed with a key of their own account does not
    open: a bare key id means the daemon's own account.
    """
    key_id = recorded.rpartition("/")[2] or "-"  # a name that no key has, rather than none
    if configured.startswith("arn:"):
        return f"{':'.join(configured.split(':')[:5])}:key/{key_id}"
    return key_id


def _translated(call: Callable[[], T], operation: str) -> T:
    """The result of a call to boto3; its failures as ours. Runs in a thread."""
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        ConnectTimeoutError,
        NoCredentialsError,
        ReadTimeoutError,
    )

    try:
        return call()
    except ClientError as error:
        raise _refused(str(error.response.get("Error", {}).get("Code", "")), operation) from None
    except (ConnectTimeoutError, ReadTimeoutError):
        raise SealUnavailable(f"KMS did not answer in {KMS_SECONDS:g} s") from None
    except NoCredentialsError:
        raise SealUnavailable("the daemon has no AWS credentials to call KMS with") from None
    except (BotoCoreError, OSError, ValueError) as error:
        # only the class: messages of boto3 quote parameters
        raise SealUnavailable(f"KMS cannot be reached ({type(error).__name__}): check PROXY_KMS_URL") from None


def _refused(code: str, operation: str) -> Exception:
    if operation == "decrypt" and code in _BROKEN_CODES:
        return SealBroken()
    known = code if code.isalnum() and len(code) <= 64 else "an error"
    advice = _ADVICE.get(known)
    return SealUnavailable(f"KMS answered {known}" + (f": {advice}" if advice else ""))
