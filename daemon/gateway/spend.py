"""Budgets on the request path: a reservation before the request goes out, more of it while it streams.

One conditional UPDATE decides, so that a hundred parallel requests spend no more than one would. Requests that are
admitted within a few milliseconds share a transaction. Everything is settled by the ledger, in the transaction that
takes the usage record.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

import orjson
import structlog
from cachetools import LRUCache

from daemon.core.budget import (
    FLOOR_OUTPUT,
    UNREADABLE_HEADERS,
    Budget,
    BudgetState,
    Mode,
    OutputHistory,
    Scope,
    counts,
    exceeded_headers,
    exceeded_message,
    headers_for,
    prompt_bound,
)
from daemon.core.periods import period_bounds
from daemon.core.pricing import PriceSheet, cost_at, price
from daemon.core.record import PriceSnapshot, UsageRecord, encode
from daemon.core.tokens import TokenCounts
from daemon.gateway.accounts import Exchange, Tried
from daemon.gateway.answers import NO_RETRY, Denied
from daemon.gateway.circuits import Write
from daemon.observability.tasks import Saves, spawn
from daemon.protocol.anthropic.meter import UsageMeter
from daemon.store import budgets
from daemon.store.budgets import CounterKey, Intent, Refused, Reserved
from daemon.store.engine import OUTAGES

log = structlog.get_logger()

LEASE = timedelta(seconds=60)
GATHER_SECONDS = 0.002
BATCH = 50
PATIENCE_SECONDS = 2.0
NOTE_SECONDS = 1.0
AWAY_SECONDS = 1.0
STEP = FLOOR_OUTPUT
OVERDRAFT = 1_500  # tokens lent to what streams when the budget ends: with the bytes in hand less than a step
_DEFAULT_MAX_TOKENS = 4096
_USERS = 50_000
UNREADABLE = Denied(
    429, "billing_error", "Your budget cannot be checked right now; try again in a few minutes.", UNREADABLE_HEADERS
)
NO_PRICE = Denied(
    400,
    "invalid_request_error",
    "this model has no price here, so it cannot be used; ask your administrator",
    (NO_RETRY,),
)


@dataclass(slots=True)
class Reservation:
    """What a running request has reserved. `covered` are the output tokens it has money for."""

    counter: CounterKey
    request_id: str
    amount_nano: int
    prompt_nano: int
    covered: int
    prices: PriceSnapshot
    overdrawn: bool = False
    prompt_known: bool = False


class Budgets:
    """Reserves, tops up and gives back. `owner` names the replica in the store."""

    def __init__(
        self,
        write: Write,
        saves: Saves,
        *,
        mode: Mode,
        scope: Scope,
        zone: ZoneInfo,
        owner: str,
        sheet: Callable[[], PriceSheet],
        now: Callable[[], datetime],
        on_store_error: str,
        every_intent: bool,
        refuse_unpriced: bool,
    ) -> None:
        self._write = write
        self._saves = saves
        self._mode = mode
        self._scope = scope
        self._zone = zone
        self._owner = owner
        self._sheet = sheet
        self._now = now
        self._on_store_error = on_store_error
        self._every_intent = every_intent
        self._refuse_unpriced = refuse_unpriced
        self._queue: deque[tuple[Intent, asyncio.Future[Reserved | Refused | None]]] = deque()
        self._running = False
        self._allowance: LRUCache[UUID, tuple[datetime, int]] = LRUCache(_USERS)
        answers: LRUCache[tuple[str, str], deque[int]] = LRUCache(_USERS)
        self._away_until = 0.0  # the store did not answer just now: nobody else waits for it
        self.history = OutputHistory(answers)
        self.replicas = 1  # that share an allowance while the store is away

    def counts(self, provider: str) -> bool:
        """Whether a provider's cost counts against budgets."""
        return counts(self._scope, provider)

    async def before(self, exchange: Exchange, tried: Tried, body: bytes, record: UsageRecord) -> Denied | bool:
        """Reserve for a request before it goes out; `record` stands in for it if this replica dies.

        True when the request is noted in the store, False when it is for the journal to note.
        """
        model = tried.price_model or exchange.facts.model
        if self._refuse_unpriced and not self._sheet().knows(tried.provider, model):
            return NO_PRICE
        budget = exchange.admitted.principal.budget
        enforced = self._mode != "off" and budget.limit_nano is not None and self.counts(tried.provider)
        noted = exchange.reservation is not None or (exchange.intended and not enforced)
        if noted or not (enforced or self._every_intent):
            return noted
        reservation = self._sized(exchange, tried, body, model, budget) if enforced else None
        intent = Intent(
            exchange.request_id,
            exchange.admitted.principal.user_id,
            reservation.counter if reservation else None,
            reservation.amount_nano if reservation else 0,
            encode(record),
        )
        clock = asyncio.get_running_loop().time
        if clock() < self._away_until:
            return self._while_away(exchange, reservation)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                outcome = await self._submit(intent)
        except OUTAGES:
            self._away_until = clock() + AWAY_SECONDS
            return self._while_away(exchange, reservation)
        if reservation is None or outcome is None:
            return True
        state = self._state(outcome, reservation.counter)
        self._allowance[intent.user_id] = (reservation.counter.start, self._left(outcome))
        if isinstance(outcome, Refused):
            return self._exceeded(state)
        exchange.reservation = reservation
        exchange.budget_headers = tuple(headers_for(state))
        return True

    async def note(self, exchange: Exchange, record: UsageRecord) -> bool:
        """Note a request in the store because its replica's journal takes nothing; False when the store is away."""
        user_id = exchange.admitted.principal.user_id
        try:
            async with asyncio.timeout(NOTE_SECONDS):
                await self._submit(Intent(exchange.request_id, user_id, None, 0, encode(record)))
        except OUTAGES:
            return False
        return True

    async def grow(self, exchange: Exchange, meter: UsageMeter, record: Callable[[], UsageRecord]) -> bool:
        """Keep a reservation ahead of what is streaming. False: the budget is used up, the answer has to end.

        A balanced budget lends less than a step to what is already streaming, a strict one nothing: there all of it was
        reserved.
        """
        reservation = exchange.reservation
        if reservation is None:
            return True
        if not reservation.prompt_known and meter.prompt_known:
            self._give_back(reservation, meter, record)
        while meter.output_seen > reservation.covered:
            if reservation.overdrawn:
                return False
            if await self._change(reservation, STEP, force=False):
                continue
            if self._mode == "strict":
                return False
            reservation.overdrawn = True
            await self._change(reservation, OVERDRAFT, force=True)
        return True

    def learned(self, record: UsageRecord) -> None:
        """What an answer really took."""
        if record.tokens.output:
            self.history.add(str(record.access_key_id), record.model_requested, record.tokens.output)

    def _sized(self, exchange: Exchange, tried: Tried, body: bytes, model: str, budget: Budget) -> Reservation:
        facts, principal = exchange.facts, exchange.admitted.principal
        if self._mode == "strict":
            output = facts.max_tokens if facts.max_tokens is not None else _DEFAULT_MAX_TOKENS
        else:
            output = self.history.expected(str(principal.access_key_id), facts.model, facts.max_tokens)
        prompt = prompt_bound(*_sizes(body))
        priced = price(
            replace(prompt, output=output),
            sheet=self._sheet(),
            provider=tried.provider,
            model=model,
            region=tried.price_region,
        )
        start, end = period_bounds(exchange.admitted_at, budget.period, self._zone)
        counter = CounterKey(principal.user_id, budget.period, start, end)
        prompt_nano = cost_at(prompt, priced.snapshot).total_nano
        return Reservation(counter, exchange.request_id, priced.cost.total_nano, prompt_nano, output, priced.snapshot)

    def _give_back(self, reservation: Reservation, meter: UsageMeter, record: Callable[[], UsageRecord]) -> None:
        """The provider has counted the prompt: what was reserved too much for it is free for others."""
        reservation.prompt_known = True
        exact = cost_at(replace(meter.tokens, output=0), reservation.prices).total_nano
        surplus = reservation.prompt_nano - exact
        if surplus > 0:
            self._saves.start(self._shrink(reservation, surplus, encode(record())), name="budget surplus")

    async def _shrink(self, reservation: Reservation, amount: int, record: bytes) -> None:
        try:
            async with self._write() as connection:
                await budgets.change_reservation(
                    connection, reservation.request_id, reservation.counter, -amount, force=True, record=record
                )
        except OUTAGES as error:
            log.warning("budget surplus not given back", reason=type(error).__name__)

    async def _change(self, reservation: Reservation, output: int, *, force: bool) -> bool:
        """Reserve for more output tokens; False when there is no room."""
        amount = cost_at(TokenCounts(output=output), reservation.prices).total_nano
        try:
            async with asyncio.timeout(PATIENCE_SECONDS), self._write() as connection:
                fits = await budgets.change_reservation(
                    connection, reservation.request_id, reservation.counter, amount, force=force
                )
        except OUTAGES:
            fits = True  # what streams already is finished; its cost is settled when the store is back
        if fits:
            reservation.covered += output
        return fits

    async def _submit(self, intent: Intent) -> Reserved | Refused | None:
        answer: asyncio.Future[Reserved | Refused | None] = asyncio.get_running_loop().create_future()
        self._queue.append((intent, answer))
        if not self._running:
            self._running = True
            spawn(self._reserve(), name="budget reservations")
        return await answer

    async def _reserve(self) -> None:
        """Take what has come within a few milliseconds in one transaction."""
        try:
            while self._queue:
                await asyncio.sleep(GATHER_SECONDS)
                batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
                # users in one order on all replicas: they wait for each other, and do not deadlock
                batch.sort(key=lambda item: str(item[0].user_id))
                try:
                    await self._reserve_all(batch)
                except OUTAGES as error:
                    _fail(batch, error)
                except Exception:  # noqa: BLE001 - one of them cannot be taken, say: its user is gone; the others can
                    await self._reserve_each(batch)
        finally:
            self._running = False

    async def _reserve_all(self, batch: list[tuple[Intent, "asyncio.Future[Reserved | Refused | None]"]]) -> None:
        """Reserve for those that still wait. Who has given up goes on without, so nothing is left behind for them."""
        now = self._now()
        waiting = [(intent, answer) for intent, answer in batch if not answer.done()]
        outcomes = []
        async with self._write() as connection:
            for intent, _ in waiting:
                outcomes.append(
                    await budgets.reserve(
                        connection, intent, owner=self._owner, now=now, lease=now + LEASE, counts=self.counts
                    )
                )
        late = []
        for (intent, answer), outcome in zip(waiting, outcomes, strict=True):
            if not answer.done():
                answer.set_result(outcome)
            else:
                late.append(intent.request_id)
        if late:
            async with self._write() as connection:
                await budgets.settle(connection, late, [], counts=self.counts)

    async def _reserve_each(self, batch: list[tuple[Intent, "asyncio.Future[Reserved | Refused | None]"]]) -> None:
        for item in batch:
            try:
                await self._reserve_all([item])
            except Exception as error:  # noqa: BLE001 - as above
                _fail([item], error if isinstance(error, OUTAGES) else OSError(str(error)))

    def _while_away(self, exchange: Exchange, reservation: Reservation | None) -> Denied | bool:
        """The store cannot be asked: serve within this replica's share of what was last known to be left."""
        if reservation is None or self._on_store_error == "open":
            return False
        if self._on_store_error == "closed":
            return UNREADABLE
        user = exchange.admitted.principal.user_id
        start, left = self._allowance.get(user, (reservation.counter.start, 0))
        left = left if start == reservation.counter.start else 0
        if left < reservation.amount_nano:
            return UNREADABLE
        self._allowance[user] = (start, left - reservation.amount_nano)
        return False

    def _left(self, outcome: Reserved | Refused) -> int:
        return max(0, outcome.limit_nano - outcome.settled_nano - outcome.reserved_nano) // max(1, self.replicas)

    def _state(self, outcome: Reserved | Refused, counter: CounterKey) -> BudgetState:
        resets_at = counter.end.astimezone(self._zone)
        return BudgetState(outcome.limit_nano, counter.period, outcome.settled_nano, outcome.reserved_nano, resets_at)

    def _exceeded(self, state: BudgetState) -> Denied:
        headers = exceeded_headers(state.period, state.resets_at, self._now())
        message = exceeded_message(state.limit_nano, state.period, state.resets_at)
        return Denied(429, "billing_error", message, tuple(headers))


def _fail(batch: list[tuple[Intent, "asyncio.Future[Reserved | Refused | None]"]], error: Exception) -> None:
    for _, answer in batch:
        if not answer.done():
            answer.set_exception(error)


def _sizes(body: bytes) -> tuple[int, int, int]:
    """Bytes of a body, those of images in it, and how many images: pictures are not paid by the byte."""
    if b'"image"' not in body:
        return len(body), 0, 0
    document = orjson.loads(body)
    places, media, images = [document.get("messages")], 0, 0
    while places:
        place = places.pop()
        if isinstance(place, list):
            places.extend(place)
        elif isinstance(place, dict):
            source = place.get("source")
            if place.get("type") == "image" and isinstance(source, dict):
                images += 1
                media += len(source.get("data") or "")
            places.append(place.get("content"))
    return len(body), media, images
