"""The directory: from the hash of an access key to the principal behind it."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from sqlalchemy import Select, and_, or_, select

from daemon.core.budget import NO_BUDGET, Budget
from daemon.core.limits import NO_LIMITS, KeyLimits
from daemon.store.engine import Store
from daemon.store.filters import live
from daemon.store.tables import access_keys, bedrock_keys, users


@dataclass(frozen=True, slots=True)
class SealedBedrockKey:
    """The Bedrock key of an access key, as it stands in the store: sealed. Setting it again makes another id."""

    id: UUID
    access_key_id: UUID
    region: str
    route: str
    profile: str | None
    sealed_secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a request belongs to. From `valid_until` on it is nobody's."""

    user_id: UUID
    user_name: str
    access_key_id: UUID
    access_key_name: str
    strategy: str
    valid_until: datetime | None
    bedrock_key: SealedBedrockKey | None = None
    budget: Budget = NO_BUDGET
    limits: KeyLimits = NO_LIMITS


class _KeyRow(Protocol):
    """Columns that decide how long a hash is good for."""

    key_hash: str
    expires_at: datetime | None
    previous_expires_at: datetime | None


class Directory:
    """Looks principals up in the store; keeps nothing."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def lookup(self, key_hash: str, now: datetime) -> Principal | None:
        """The principal of a live key of an active, live user, by its current hash or one that is in its grace."""
        query = _principals().where(
            or_(access_keys.c.key_hash == key_hash, access_keys.c.previous_key_hash == key_hash)
        )
        async with self._store.read() as connection:
            row = (await connection.execute(query)).one_or_none()
        if row is None:
            return None
        valid_until = _valid_until(row, key_hash)
        if valid_until is not None and valid_until <= now:
            return None
        return _principal(row, valid_until)

    async def of_access_key(self, access_key_id: UUID) -> Principal | None:
        """The principal of a live key by its id: for what the gateway does on an operator's behalf."""
        query = _principals().where(access_keys.c.id == access_key_id)
        async with self._store.read() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else _principal(row, row.expires_at)


def _principals() -> Select[Any]:
    """Live keys of live, active users, with the Bedrock key they may have."""
    bedrock = bedrock_keys.c
    return (
        select(
            access_keys.c.id,
            access_keys.c.name,
            access_keys.c.key_hash,
            access_keys.c.expires_at,
            access_keys.c.previous_expires_at,
            access_keys.c.limit_requests_per_minute,
            access_keys.c.limit_tokens_per_minute,
            access_keys.c.limit_concurrent_requests,
            users.c.id.label("user_id"),
            users.c.name.label("user_name"),
            users.c.routing_strategy,
            users.c.budget_nano_usd,
            users.c.budget_period,
            bedrock.id.label("bedrock_key_id"),
            bedrock.region.label("bedrock_region"),
            bedrock.route.label("bedrock_route"),
            bedrock.options.label("bedrock_options"),
            bedrock.sealed_secret,
        )
        .join(users, users.c.id == access_keys.c.user_id)
        .outerjoin(bedrock_keys, and_(bedrock.access_key_id == access_keys.c.id, live(bedrock_keys)))
        .where(live(access_keys), live(users), users.c.is_active)
    )


def _principal(row: Any, valid_until: datetime | None) -> Principal:
    sealed = None
    if row.bedrock_key_id is not None:
        profile = row.bedrock_options.get("profile")
        sealed = SealedBedrockKey(
            row.bedrock_key_id, row.id, row.bedrock_region, row.bedrock_route, profile, row.sealed_secret
        )
    budget = Budget(row.budget_nano_usd, row.budget_period)
    limits = KeyLimits(row.limit_requests_per_minute, row.limit_tokens_per_minute, row.limit_concurrent_requests)
    return Principal(
        row.user_id, row.user_name, row.id, row.name, row.routing_strategy, valid_until, sealed, budget, limits
    )


def _valid_until(row: _KeyRow, key_hash: str) -> datetime | None:
    """When this hash stops working: at the key's own expiry, or earlier at the end of the grace of a replaced one."""
    ends = [row.expires_at] if row.key_hash == key_hash else [row.expires_at, row.previous_expires_at]
    return min((end for end in ends if end is not None), default=None)
