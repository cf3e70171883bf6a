"""Budgets for people: set by an operator, shown with how much of them is gone."""

from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import orjson
from cachetools import LRUCache
from sqlalchemy import select, update

from daemon.contract.budgets import BudgetStatus, BudgetUpdate
from daemon.contract.common import Page
from daemon.contract.usage import usd
from daemon.core.budget import Budget, BudgetState, Mode, Scope, counts, nano_of, usage_document
from daemon.core.periods import Period, period_bounds
from daemon.services import audit, cursors
from daemon.services.audit import Actor
from daemon.services.directory import Principal
from daemon.services.errors import check_version
from daemon.services.users import live_user
from daemon.store.budgets import CounterKey, Counts, state, states
from daemon.store.engine import Store
from daemon.store.epochs import bump
from daemon.store.filters import live
from daemon.store.tables import users

_SHOWN = 10_000


class Budgets:
    """Use cases of budgets."""

    def __init__(
        self,
        store: Store,
        *,
        mode: Mode,
        scope: Scope,
        zone: ZoneInfo,
        now: Callable[[], datetime],
        on_access_change: Callable[[], None],
    ) -> None:
        self._store = store
        self._mode = mode
        self._scope = scope
        self._zone = zone
        self._now = now
        self._on_access_change = on_access_change

    async def get_budget(self, user_id: UUID) -> BudgetStatus:
        """The budget of a live user, or NotFound."""
        async with self._store.read() as connection:
            row = await live_user(connection, user_id)
            spent, reserved = await state(connection, self._key(row), counts=self._counts)
        return self._status(row, spent, reserved)

    async def list_budgets(
        self, *, limit: int, cursor: str | None, team: str | None = None, over: float | None = None
    ) -> Page[BudgetStatus]:
        """Live users that have a budget; with `over`, on this page, those that have used more than so many percent."""
        query = select(users).where(live(users), users.c.budget_nano_usd.is_not(None)).order_by(users.c.id)
        after = cursors.decode_id(cursor)
        if after is not None:
            query = query.where(users.c.id > after)
        if team is not None:
            query = query.where(users.c.team == team)
        async with self._store.read() as connection:
            rows = (await connection.execute(query.limit(limit + 1))).mappings().all()
            found = await states(connection, [self._key(row) for row in rows[:limit]], counts=self._counts)
        items = [self._status(row, *found[row["id"]]) for row in rows[:limit]]
        if over is not None:
            items = [item for item in items if item.percent is not None and item.percent > over]
        more = cursors.encode(rows[limit - 1]["id"]) if len(rows) > limit else None
        return Page(items=items, next_cursor=more)

    async def set_budget(
        self, user_id: UUID, wanted: BudgetUpdate, actor: Actor, *, version: int | None
    ) -> BudgetStatus:
        """Set the limit, and the period when one is named; it holds from the next request on.

        Raises:
            NotFound, Conflict (the user has changed since it was read).
        """
        now = self._now()
        async with self._store.write() as connection:
            row = dict(await live_user(connection, user_id, lock=True))
            check_version(row, version, "user")
            values = {
                "budget_nano_usd": nano_of(wanted.budget_usd),
                "budget_period": wanted.period or row["budget_period"],
            }
            changed = {name: value for name, value in values.items() if row[name] != value}
            if changed:
                before = {name: row[name] for name in changed}
                stamps = {"version": row["version"] + 1, "updated_at": now}
                await connection.execute(
                    update(users).where(users.c.id == user_id, live(users)).values(changed | stamps)
                )
                subject = ("user", user_id)
                await audit.record(
                    connection, actor, "budget.set", at=now, subject=subject, before=before, after=changed
                )
                await bump(connection, "access", now)
                row |= changed | stamps
            spent, reserved = await state(connection, self._key(row), counts=self._counts)
        if changed:
            self._on_access_change()
        return self._status(row, spent, reserved)

    def _counts(self, provider: str) -> bool:
        return counts(self._scope, provider)

    def _key(self, row: Any) -> CounterKey:
        return counter_key(row["id"], row["budget_period"], self._now(), self._zone)

    def _status(self, row: Any, spent: int, reserved: int) -> BudgetStatus:
        limit: int | None = row["budget_nano_usd"]
        key = self._key(row)
        return BudgetStatus(
            user_id=row["id"],
            user_name=row["name"],
            team=row["team"],
            budget_usd=None if limit is None else usd(limit),
            period=row["budget_period"],
            period_start=key.start,
            resets_at=key.end,
            spent_usd=usd(spent),
            reserved_usd=usd(reserved),
            remaining_usd=None if limit is None else usd(max(0, limit - spent)),
            percent=None if limit is None else round(100 * spent / limit, 2) if limit else 100.0,
            exceeded=limit is not None and spent >= limit,
            scope=self._scope,
            mode=self._mode,
            version=row["version"],
        )


class BudgetDisplay:
    """What Claude Code shows of a budget; remembered for a while, since it is only looked at."""

    def __init__(
        self,
        store: Store,
        *,
        enforced: bool,
        counts: Counts,
        zone: ZoneInfo,
        ttl: float,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
    ) -> None:
        self._store = store
        self._enforced = enforced
        self._counts = counts
        self._zone = zone
        self._ttl = ttl
        self._now = now
        self._monotonic = monotonic
        self._shown: LRUCache[tuple[UUID, Budget], tuple[bytes, float]] = LRUCache(_SHOWN)

    async def usage_document(self, principal: Principal) -> bytes:
        """The body of `GET /api/oauth/usage`."""
        limit = principal.budget.limit_nano if self._enforced else None
        key = (principal.user_id, principal.budget)
        known = self._shown.get(key)
        if known is not None and self._monotonic() - known[1] < self._ttl:
            return known[0]
        period: Period = principal.budget.period if limit is not None else "monthly"
        counter = counter_key(principal.user_id, period, self._now(), self._zone)
        async with self._store.read() as connection:
            # without a limit nothing is counted against one: all of it is shown
            spent, reserved = await state(connection, counter, counts=self._counts if limit is not None else _any)
        shown = None if limit is None else BudgetState(limit, period, spent, reserved, counter.end)
        body = orjson.dumps(usage_document(spent, shown))
        self._shown[key] = (body, self._monotonic())
        return body


def _any(_: str) -> bool:
    return True


def counter_key(user_id: UUID, period: Period, now: datetime, zone: ZoneInfo) -> CounterKey:
    """The counter that an instant falls into."""
    start, end = period_bounds(now, period, zone)
    return CounterKey(user_id, period, start, end)
