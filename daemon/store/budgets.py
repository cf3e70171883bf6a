"""Budget counters and intents: one conditional UPDATE decides, the ledger's own transaction settles.

A counter is made from the ledger when it is first needed. Whoever makes it locks the user's row, which every insert of
a ledger row refers to: no row can slip in between the sum and the counter.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, RowMapping, and_, bindparam, delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from daemon.core.periods import Period
from daemon.core.record import UsageRecord
from daemon.store.tables import budget_counters, intents, replicas, token_usage, users

Counts = Callable[[str], bool]
_c = budget_counters.c
_PROVIDERS = ("plan", "bedrock")


@dataclass(frozen=True, slots=True)
class CounterKey:
    """One user's counter of one period."""

    user_id: UUID
    period: Period
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Intent:
    """A request about to go out. `amount_nano` is reserved on `counter`; without one nothing is."""

    request_id: str
    user_id: UUID
    counter: CounterKey | None
    amount_nano: int
    record: bytes


@dataclass(frozen=True, slots=True)
class Reserved:
    """The counter after a reservation."""

    limit_nano: int
    settled_nano: int
    reserved_nano: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The limit leaves no room; it is what it is in the store now."""

    limit_nano: int
    settled_nano: int
    reserved_nano: int


async def reserve(
    connection: AsyncConnection, intent: Intent, *, owner: str, now: datetime, lease: datetime, counts: Counts
) -> Reserved | Refused | None:
    """Note a request before it goes out, if its reservation fits. None when it has no counter, or no limit any more."""
    outcome: Reserved | Refused | None = None
    if intent.counter is not None:
        outcome = await _take(connection, intent.counter, intent.amount_nano, counts)
        if isinstance(outcome, Refused):
            return outcome
    held = intent.counter if outcome is not None else None
    upsert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    changing = {
        "period": held.period if held else None,
        "period_start": held.start if held else None,
        "reserved_nano_usd": intent.amount_nano if held else 0,
        "record": intent.record,
    }
    noted = upsert(intents).values(
        request_id=intent.request_id,
        user_id=intent.user_id,
        owner=owner,
        lease_expires_at=lease,
        created_at=now,
        **changing,
    )
    # a request that goes on to a second provider may have been noted for the first one, with nothing reserved
    await connection.execute(noted.on_conflict_do_update(index_elements=["request_id"], set_=changing))
    return outcome


async def change_reservation(
    connection: AsyncConnection,
    request_id: str,
    counter: CounterKey,
    amount_nano: int,
    *,
    force: bool,
    record: bytes | None = None,
) -> bool:
    """Add to a request's reservation, or take from it; False when the limit leaves no room. `force` adds all the same.

    A request whose intent is gone (settled, or given up) has nothing to change. `record` is what stands in for the
    request from now on.
    """
    changed = (
        update(intents)
        .where(intents.c.request_id == request_id)
        .values(
            {"reserved_nano_usd": intents.c.reserved_nano_usd + amount_nano} | ({"record": record} if record else {})
        )
    )
    if (await connection.execute(changed)).rowcount != 1:
        return True
    room = [] if force or amount_nano <= 0 else [_fits(counter, amount_nano)]
    moved = (
        update(budget_counters).where(_is(counter), *room).values(reserved_nano_usd=_c.reserved_nano_usd + amount_nano)
    )
    if (await connection.execute(moved)).rowcount == 1:
        return True
    back = (
        update(intents)
        .where(intents.c.request_id == request_id)
        .values(reserved_nano_usd=intents.c.reserved_nano_usd - amount_nano)
    )
    await connection.execute(back)
    return False


async def settle(
    connection: AsyncConnection,
    request_ids: Sequence[str],
    fresh: Sequence[UsageRecord],
    *,
    undone: Sequence[UsageRecord] = (),
    counts: Counts,
) -> None:
    """Move the counters by what has just been put into the ledger, and release what those requests had reserved.

    `undone` has just been taken off the ledger.
    """
    gone = delete(intents).where(intents.c.request_id.in_(request_ids))
    released = await connection.execute(
        gone.returning(intents.c.user_id, intents.c.period, intents.c.period_start, intents.c.reserved_nano_usd)
    )
    changes: dict[tuple[UUID, str, datetime], list[int]] = {}
    for row in released:
        if row.period is not None and row.reserved_nano_usd:
            changes.setdefault((row.user_id, row.period, row.period_start), [0, 0])[1] -= row.reserved_nano_usd
    changed = [(record, record.cost.total_nano) for record in fresh]
    changed += [(record, -record.cost.total_nano) for record in undone]
    costly = [(record, nano) for record, nano in changed if nano and counts(record.provider)]
    for counter in await _counters_of(connection, [record for record, _ in costly]):
        spent = sum(
            nano
            for record, nano in costly
            if record.user_id == counter["user_id"]
            and counter["period_start"] <= record.admitted_at < counter["period_end"]
        )
        if spent:
            key = (counter["user_id"], counter["period"], counter["period_start"])
            changes.setdefault(key, [0, 0])[0] += spent
    await _move(connection, changes)


async def state(connection: AsyncConnection, counter: CounterKey, *, counts: Counts) -> tuple[int, int]:
    """Nano-dollars settled and reserved in a period, for display: from the counter, or else from the ledger."""
    row = (await connection.execute(select(budget_counters).where(_is(counter)))).mappings().one_or_none()
    if row is not None:
        return int(row["settled_nano_usd"]), int(row["reserved_nano_usd"])
    return await _spent(connection, counter, counts), 0


async def states(
    connection: AsyncConnection, keys: Sequence[CounterKey], *, counts: Counts
) -> dict[UUID, tuple[int, int]]:
    """`state` of many users at once."""
    found: dict[UUID, tuple[int, int]] = {}
    ids = [key.user_id for key in keys]
    rows = (await connection.execute(select(budget_counters).where(_c.user_id.in_(ids)))).mappings().all()
    known = {(row["user_id"], row["period"], row["period_start"]): row for row in rows}
    for key in keys:
        row = known.get((key.user_id, key.period, key.start))
        if row is not None:
            found[key.user_id] = (int(row["settled_nano_usd"]), int(row["reserved_nano_usd"]))
        else:
            found[key.user_id] = (await _spent(connection, key, counts), 0)
    return found


async def forget_counters(connection: AsyncConnection) -> None:
    """Drop counters that nothing is reserved on: what counts has changed, and they are made anew when needed."""
    await connection.execute(delete(budget_counters).where(_c.reserved_nano_usd == 0))


async def renew_leases(connection: AsyncConnection, *, owner: str, now: datetime, until: datetime) -> None:
    """This replica is alive, and so are its requests."""
    await connection.execute(update(intents).where(intents.c.owner == owner).values(lease_expires_at=until))
    upsert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = upsert(replicas).values(id=owner, seen_at=now)
    await connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_={"seen_at": now}))


async def count_replicas(connection: AsyncConnection, since: datetime) -> int:
    """Replicas seen since an instant; the others are forgotten."""
    await connection.execute(delete(replicas).where(replicas.c.seen_at < since))
    return int(await connection.scalar(select(func.count()).select_from(replicas)) or 0)


async def expired_intents(connection: AsyncConnection, now: datetime, *, limit: int) -> Sequence[RowMapping]:
    """Requests whose replica has not been heard of; each is given to one replica only."""
    query = select(intents).where(intents.c.lease_expires_at < now).order_by(intents.c.lease_expires_at).limit(limit)
    return (await connection.execute(query.with_for_update(skip_locked=True))).mappings().all()


async def _take(
    connection: AsyncConnection, counter: CounterKey, amount: int, counts: Counts
) -> Reserved | Refused | None:
    for attempt in (1, 2):
        moved = (
            update(budget_counters)
            .where(_is(counter), _fits(counter, amount))
            .values(reserved_nano_usd=_c.reserved_nano_usd + amount)
        )
        row = (
            await connection.execute(
                moved.returning(_c.settled_nano_usd, _c.reserved_nano_usd, _limit(counter).label("limit_nano"))
            )
        ).one_or_none()
        if row is not None:
            return Reserved(row.limit_nano, row.settled_nano_usd, row.reserved_nano_usd)
        found = (await connection.execute(select(budget_counters).where(_is(counter)))).mappings().one_or_none()
        if found is not None:
            limit = await connection.scalar(select(_limit(counter)))
            if limit is None:
                return None
            return Refused(int(limit), int(found["settled_nano_usd"]), int(found["reserved_nano_usd"]))
        assert attempt == 1, "a counter that was made is there"
        await _make(connection, counter, counts)
    raise AssertionError


async def _make(connection: AsyncConnection, counter: CounterKey, counts: Counts) -> None:
    """The counter of a period, with what the ledger says was spent in it."""
    await connection.execute(select(users.c.id).where(users.c.id == counter.user_id).with_for_update())
    spent = await _spent(connection, counter, counts)
    upsert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    values = {
        "user_id": counter.user_id,
        "period": counter.period,
        "period_start": counter.start,
        "period_end": counter.end,
        "settled_nano_usd": spent,
        "reserved_nano_usd": 0,
    }
    await connection.execute(upsert(budget_counters).values(values).on_conflict_do_nothing())


async def _spent(connection: AsyncConnection, counter: CounterKey, counts: Counts) -> int:
    providers = [provider for provider in _PROVIDERS if counts(provider)]
    query = select(func.coalesce(func.sum(token_usage.c.cost_nano_usd), 0)).where(
        token_usage.c.user_id == counter.user_id,
        token_usage.c.admitted_at >= counter.start,
        token_usage.c.admitted_at < counter.end,
        token_usage.c.provider.in_(providers),
    )
    return int(await connection.scalar(query) or 0)


async def _counters_of(connection: AsyncConnection, records: Sequence[UsageRecord]) -> Iterable[RowMapping]:
    if not records:
        return ()
    query = select(budget_counters).where(
        _c.user_id.in_({record.user_id for record in records}),
        _c.period_end > min(record.admitted_at for record in records),
    )
    return (await connection.execute(query)).mappings().all()


async def _move(connection: AsyncConnection, changes: dict[tuple[UUID, str, datetime], list[int]]) -> None:
    """In the order of the keys, so that two replicas that move the same counters wait and do not deadlock."""
    if not changes:
        return
    statement = (
        update(budget_counters)
        .where(
            and_(
                _c.user_id == bindparam("b_user"),
                _c.period == bindparam("b_period"),
                _c.period_start == bindparam("b_start"),
            )
        )
        .values(
            settled_nano_usd=_c.settled_nano_usd + bindparam("b_settled"),
            reserved_nano_usd=_c.reserved_nano_usd + bindparam("b_reserved"),
        )
    )
    rows: list[dict[str, Any]] = [
        {"b_user": user, "b_period": period, "b_start": start, "b_settled": amounts[0], "b_reserved": amounts[1]}
        for (user, period, start), amounts in sorted(changes.items(), key=lambda item: str(item[0]))
        if amounts != [0, 0]
    ]
    if rows:
        await connection.execute(statement, rows)


def _is(counter: CounterKey) -> ColumnElement[bool]:
    return and_(_c.user_id == counter.user_id, _c.period == counter.period, _c.period_start == counter.start)


def _limit(counter: CounterKey) -> Any:
    """The limit as it is now: a budget that an operator has just changed holds from the next request on."""
    return select(users.c.budget_nano_usd).where(users.c.id == counter.user_id).scalar_subquery()


def _fits(counter: CounterKey, amount: int) -> ColumnElement[bool]:
    limit = _limit(counter)
    return and_(limit.is_not(None), _c.settled_nano_usd + _c.reserved_nano_usd + amount <= limit)
