"""History at today's knowledge: ledger rows are priced anew, in small steps, with everything that is made of them."""

from collections.abc import Callable, Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from daemon.contract.pricing import Reprice, Repriced, RepricedModel
from daemon.core.mapping import split_prefix
from daemon.core.periods import day_start
from daemon.core.prices import PriceSheet
from daemon.core.pricing import price
from daemon.core.record import Ended
from daemon.core.tokens import TokenCounts
from daemon.services import audit, cursors
from daemon.services.audit import Actor
from daemon.services.errors import Invalid
from daemon.store.engine import Store
from daemon.store.prices import Repricing, reprice, rows_to_price

STEP = 500  # rows in one transaction


class Repricer:
    """Prices rows of the ledger with the sheet in use: each at the prices of the day it was admitted on.

    `counts` says whose cost counts against budgets. Doing it again changes nothing, so it may be broken off anywhere.
    """

    def __init__(
        self,
        store: Store,
        *,
        sheet: Callable[[], PriceSheet],
        zone: ZoneInfo,
        counts: Callable[[str], bool],
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._sheet = sheet
        self._zone = zone
        self._counts = counts
        self._now = now

    async def step(self, wanted: Reprice, actor: Actor) -> Repriced:
        """Price the next rows of a range; the answer's cursor continues. A dry run writes nothing.

        Raises:
            Invalid: the range is empty, or the cursor is not one of ours.
        """
        if wanted.since >= wanted.until:
            raise Invalid("is not after since", field="until")
        after = cursors.decode_moment(wanted.cursor)
        sheet = self._sheet()
        open_store = self._store.read if wanted.dry_run else self._store.write
        async with open_store() as connection:
            rows = await rows_to_price(
                connection, since=wanted.since, until=wanted.until, after=after, limit=STEP, lock=not wanted.dry_run
            )
            known = [row for row in rows if row["user_id"] is not None and row["access_key_id"] is not None]
            priced = [_priced(row, sheet) for row in known]
            changes = [repricing for repricing in priced if repricing.changes]
            answer = _answer(wanted, sheet, rows, priced)
            if changes and not wanted.dry_run:
                await self._write(connection, changes, wanted, answer, actor)
        return answer

    async def _write(
        self,
        connection: AsyncConnection,
        changes: Sequence[Repricing],
        wanted: Reprice,
        answer: Repriced,
        actor: Actor,
    ) -> None:
        await reprice(connection, changes, day_of=lambda instant: day_start(instant, self._zone), counts=self._counts)
        figures = answer.model_dump(include={"changed", "before_nano_usd", "after_nano_usd"})
        span = {"since": wanted.since.isoformat(), "until": wanted.until.isoformat()}
        await audit.record(
            connection,
            actor,
            "pricing.reprice",
            at=self._now(),
            subject=("price_sheet", answer.sheet_id),
            after=span | figures,
        )


def _priced(row: RowMapping, sheet: PriceSheet) -> Repricing:
    """What a row costs by the sheet, in the region and the tier that are on the books."""
    tier, _, geo = (row["pricing_tier"] or "").partition("+")
    priced = price(
        TokenCounts(
            input=row["input_tokens"],
            output=row["output_tokens"],
            cache_write_5m=row["cache_write_5m_tokens"],
            cache_write_1h=row["cache_write_1h_tokens"],
            cache_read=row["cache_read_tokens"],
        ),
        sheet=sheet.on(row["admitted_at"].date()),
        provider=row["provider"],
        model=row["model_served"],
        region=_region(row),
        speed="fast" if tier == "fast" else None,
        inference_geo=geo or None,
    )
    estimated = priced.estimated or (row["estimated"] and not _price_was_guessed(row, sheet))
    return Repricing(row, priced, estimated)


def _region(row: RowMapping) -> str:
    """Where the answer came from: by the profile that was asked. The price may have been another region's."""
    asked = (row["attempts"] or [{}])[-1].get("model") or ""
    return split_prefix(asked)[0] or row["pricing_region"] or "global"


def _price_was_guessed(row: RowMapping, sheet: PriceSheet) -> bool:
    """Whether a row is estimated because its model had no price then: its tokens were counted to the end."""
    guessed = row["pricing_model"] is not None and row["pricing_model"] != sheet.name_of(row["model_served"])
    return bool(guessed) and row["ended"] == Ended.FINISHED.value


def _answer(wanted: Reprice, sheet: PriceSheet, rows: Sequence[RowMapping], priced: Sequence[Repricing]) -> Repriced:
    models: dict[tuple[str, str], RepricedModel] = {}
    for repricing in priced:
        key = (repricing.row["provider"], repricing.row["model_served"])
        blank = RepricedModel(provider=key[0], model=key[1], rows=0, changed=0, before_nano_usd=0, after_nano_usd=0)
        sums = models.setdefault(key, blank)
        sums.rows += 1
        sums.changed += repricing.changes
        sums.before_nano_usd += repricing.row["cost_nano_usd"]
        sums.after_nano_usd += repricing.priced.cost.total_nano
    items = [models[key] for key in sorted(models)]
    last = rows[-1] if rows else None
    return Repriced(
        sheet_id=sheet.sheet_id,
        dry_run=wanted.dry_run,
        rows=len(rows),
        changed=sum(item.changed for item in items),
        skipped=len(rows) - len(priced),
        before_nano_usd=sum(item.before_nano_usd for item in items),
        after_nano_usd=sum(item.after_nano_usd for item in items),
        items=items,
        reached=last["admitted_at"] if last else None,
        next_cursor=cursors.encode_moment(last["admitted_at"], last["id"]) if last and len(rows) == STEP else None,
    )
