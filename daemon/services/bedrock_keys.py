"""Bedrock keys: registered for an access key, sealed before they reach the store, tested with one small request."""

import hashlib
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, RowMapping, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from daemon.contract.bedrock_keys import BedrockKey, BedrockKeySet, BedrockKeyTest
from daemon.contract.usage import usd
from daemon.core.credentials import (
    AssumeRole,
    BedrockCredential,
    IamKeys,
    decode_credential,
    encode_credential,
)
from daemon.security.envelope import Envelope, SealBroken, SealUnavailable, SealUnconfigured, sealed_by
from daemon.services import audit
from daemon.services.audit import Actor
from daemon.services.bedrock_credentials import Checked, check
from daemon.services.errors import Conflict, Invalid, NotFound, Unavailable
from daemon.services.ids import uuid7
from daemon.store.engine import Store
from daemon.store.epochs import bump
from daemon.store.filters import live
from daemon.store.tables import access_keys, bedrock_keys

_RETRY_AFTER = 5


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What came of one small request with a Bedrock key. `message` is None when it worked."""

    ok: bool
    model: str
    bedrock_model: str | None
    route: str | None
    status: int | None
    message: str | None
    cost_nano_usd: int
    duration_ms: int
    request_id: str


Probe = Callable[[UUID], Awaitable[ProbeResult]]


class BedrockKeys:
    """Use cases of Bedrock keys. No answer, audit row or error holds the credential."""

    def __init__(
        self,
        store: Store,
        *,
        envelope: Envelope,
        hasher_secret: bytes,
        now: Callable[[], datetime],
        token_bytes: Callable[[int], bytes],
        on_access_change: Callable[[], None],
        default_region: str,
        probe: Probe,
    ) -> None:
        self._store = store
        self._envelope = envelope
        self._hasher_secret = hasher_secret
        self._now = now
        self._token_bytes = token_bytes
        self._on_access_change = on_access_change
        self._default_region = default_region
        self._probe = probe

    async def set_key(self, access_key_id: UUID, wanted: BedrockKeySet, actor: Actor) -> BedrockKey:
        """Register a Bedrock key in place of the one before.

        Raises:
            Invalid: the credential is not in shape, or nothing here can seal it.
            NotFound: there is no such access key, or it is revoked.
            Unavailable: KMS cannot seal it now.
        """
        now = self._now()
        checked = check(wanted, now)
        async with self._store.read() as connection:
            preferred = (await _live_access_key(connection, access_key_id))["bedrock_region"]
        key_id = uuid7(now, self._token_bytes)
        values = {
            "id": key_id,
            "access_key_id": access_key_id,
            "auth_kind": wanted.auth,
            "region": wanted.region or checked.region or preferred or self._default_region,
            "route": wanted.route,
            "options": _options(wanted, checked),
            "sealed_secret": await self._sealed(checked.credential, seal_context(access_key_id, key_id)),
            "fingerprint": self._fingerprint(checked.credential),
            "created_at": now,
            "updated_at": now,
        }
        async with self._store.write() as connection:  # only now: no connection waits for KMS
            await _live_access_key(connection, access_key_id, lock=True)
            before = await _live_bedrock_key(connection, access_key_id)
            if before is not None:
                await erase_keys(connection, bedrock_keys.c.id == before["id"], now)
            await connection.execute(insert(bedrock_keys).values(values))
            await _announce(connection, actor, "bedrock_key.set", before=before, after=values, at=now)
        self._on_access_change()
        return _view(values)

    async def get_key(self, access_key_id: UUID) -> BedrockKey:
        """The Bedrock key of a live access key, or NotFound."""
        async with self._store.read() as connection:
            await _live_access_key(connection, access_key_id)
            row = await _live_bedrock_key(connection, access_key_id)
        if row is None:
            raise NotFound("the access key has no Bedrock key")
        return _view(row)

    async def remove_key(self, access_key_id: UUID, actor: Actor) -> None:
        """Take the Bedrock key away; what was sealed is erased. Removing it again changes nothing."""
        now = self._now()
        async with self._store.write() as connection:
            await _live_access_key(connection, access_key_id, lock=True)
            row = await _live_bedrock_key(connection, access_key_id)
            if row is None:
                return
            await erase_keys(connection, bedrock_keys.c.id == row["id"], now)
            await _announce(connection, actor, "bedrock_key.remove", before=row, after=None, at=now)
        self._on_access_change()

    async def test_key(self, access_key_id: UUID, actor: Actor) -> BedrockKeyTest:
        """Send one small request with the key. It costs a little, so it is in the audit log.

        Raises:
            NotFound: there is no key to test.
            Conflict: the stored key cannot be opened; it has to be set again.
            Unavailable: the key cannot be opened, or tried, now.
        """
        await self.get_key(access_key_id)
        try:
            result = await self._probe(access_key_id)
        except SealBroken as error:
            raise Conflict(f"{error}; set the Bedrock key again") from None
        except SealUnavailable as error:
            raise Unavailable(str(error), retry_after=_RETRY_AFTER) from None
        after = {"ok": result.ok, "status": result.status, "model": result.model, "request_id": result.request_id}
        async with self._store.write() as connection:
            subject = ("access_key", access_key_id)
            await audit.record(connection, actor, "bedrock_key.test", at=self._now(), subject=subject, after=after)
        return BedrockKeyTest(
            access_key_id=access_key_id,
            ok=result.ok,
            model=result.model,
            bedrock_model=result.bedrock_model,
            route=result.route,
            status=result.status,
            message=result.message,
            cost_nano_usd=result.cost_nano_usd,
            cost_usd=usd(result.cost_nano_usd),
            duration_ms=result.duration_ms,
            request_id=result.request_id,
        )

    async def _sealed(self, credential: BedrockCredential, context: dict[str, str]) -> bytes:
        try:
            return await self._envelope.seal(encode_credential(credential), context)
        except SealUnconfigured as error:
            raise Invalid(str(error)) from None
        except SealUnavailable as error:
            raise Unavailable(str(error), retry_after=_RETRY_AFTER) from None

    def _fingerprint(self, credential: BedrockCredential) -> str:
        message = b"bedrock-key\0" + encode_credential(credential)
        return hmac.new(self._hasher_secret, message, hashlib.sha256).hexdigest()[:16]


def seal_context(access_key_id: UUID, bedrock_key_id: UUID) -> dict[str, str]:
    """What a sealed Bedrock key is bound to: in another row, or for another access key, it does not open."""
    return {"purpose": "bedrock-key", "access_key_id": str(access_key_id), "bedrock_key_id": str(bedrock_key_id)}


async def open_credential(
    envelope: Envelope, sealed: bytes, *, access_key_id: UUID, bedrock_key_id: UUID
) -> BedrockCredential:
    """The credential of a row of `bedrock_keys`.

    Raises:
        SealBroken, SealUnavailable
    """
    payload = await envelope.open(sealed, seal_context(access_key_id, bedrock_key_id))
    try:
        return decode_credential(payload)
    except ValueError:  # sealed by a version that knows more kinds
        raise SealBroken from None


async def erase_keys(connection: AsyncConnection, which: ColumnElement[bool], now: datetime) -> None:
    """Take live Bedrock keys away, in the caller's transaction.

    The rows stay for the record, what was sealed does not: nobody needs a credential that was taken away.
    """
    values = {"deleted_at": now, "updated_at": now, "sealed_secret": b""}
    await connection.execute(update(bedrock_keys).where(which, live(bedrock_keys)).values(values))


def _options(wanted: BedrockKeySet, checked: Checked) -> dict[str, Any]:
    credential = checked.credential
    return {
        "profile": wanted.profile,
        "expires_at": checked.expires_at.isoformat() if checked.expires_at else None,
        "key_id_hint": credential.access_key_id[-4:] if isinstance(credential, IamKeys) else None,
        "role_arn": credential.role_arn if isinstance(credential, AssumeRole) else None,
    }


def _view(row: RowMapping | dict[str, Any]) -> BedrockKey:
    fields = dict(row) | row["options"]
    return BedrockKey.model_validate(fields | {"auth": row["auth_kind"], "sealed_by": sealed_by(row["sealed_secret"])})


async def _live_access_key(connection: AsyncConnection, key_id: UUID, *, lock: bool = False) -> RowMapping:
    query = select(access_keys).where(access_keys.c.id == key_id, live(access_keys))
    if lock:
        query = query.with_for_update()
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        raise NotFound("no such access key")
    return row


async def _live_bedrock_key(connection: AsyncConnection, access_key_id: UUID) -> RowMapping | None:
    query = select(bedrock_keys).where(bedrock_keys.c.access_key_id == access_key_id, live(bedrock_keys))
    return (await connection.execute(query)).mappings().one_or_none()


async def _announce(
    connection: AsyncConnection,
    actor: Actor,
    action: str,
    *,
    before: RowMapping | None,
    after: dict[str, Any] | None,
    at: datetime,
) -> None:
    subject = before or after
    assert subject is not None
    await audit.record(
        connection,
        actor,
        action,
        at=at,
        subject=("access_key", subject["access_key_id"]),
        before=_audited(before) if before else None,
        after=_audited(after) if after else None,
    )
    await bump(connection, "access", at)


def _audited(row: RowMapping | dict[str, Any]) -> dict[str, Any]:
    shown = ("auth_kind", "region", "route", "fingerprint")
    return {name: row[name] for name in shown} | {"profile": row["options"].get("profile")}
