"""The price sheet in use: the packaged one, what is configured over it, and an uploaded sheet over that."""

import asyncio
import codecs
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from daemon.contract.pricing import ModelPrice, ModelPrices, PriceChange, PricesReloaded, TierPrice
from daemon.core import prices as core
from daemon.core.price_changes import diff, plain
from daemon.core.price_sheets import PriceSheetError, overlay
from daemon.core.prices import PriceSheet, Rates, Source
from daemon.services import audit
from daemon.services.audit import Actor
from daemon.services.errors import Invalid
from daemon.store.engine import Store
from daemon.store.epochs import bump
from daemon.store.prices import activate_sheet, active_sheet

log = structlog.get_logger()

EPOCH = "pricing"
MOST_UNKNOWN = 1000  # models that nobody knows are remembered; their names come from outside
SHOWN_UNKNOWN = 20


@dataclass(frozen=True, slots=True)
class Layer:
    """A configured document that is over the packaged sheet, and what it is called in problems."""

    source: Source
    name: str
    document: bytes


class Pricing:
    """Holds the price sheet in use. It is replaced whole, by one that was read without a problem, or not at all.

    `read_configured` reads the layers that are configured, the lowest first.
    """

    def __init__(
        self,
        store: Store,
        *,
        packaged: PriceSheet,
        read_configured: Callable[[], Sequence[Layer]],
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._packaged = packaged
        self._read_configured = read_configured
        self._now = now
        self._reloading = asyncio.Lock()
        self._unknown: dict[tuple[str, str], None] = {}
        self.sheet = packaged

    def current(self) -> PriceSheet:
        """The prices that hold today."""
        return self.sheet.on(self._now().date())

    async def start(self) -> None:
        """Load what is configured and what was uploaded.

        Raises:
            PriceSheetError: what is configured cannot be used.
        """
        self.sheet = await self._over_uploaded(await self._configured())

    async def follow(self) -> None:
        """Load everything again because a replica has changed something; what cannot be used changes nothing."""
        async with self._reloading:
            try:
                await self.start()
            except PriceSheetError as error:
                log.error("configured prices cannot be used, the old ones stay", reason=str(error))

    def list_prices(
        self, *, provider: str | None = None, region: str | None = None, model: str | None = None
    ) -> ModelPrices:
        """The prices that hold today, and those that are to come."""
        today = self._now().date()
        name = None if model is None else (self.sheet.name_of(model) or model)
        entries = [(entry, False) for entry in self.current().prices.values()]
        entries += [(entry, True) for entry in self.sheet.upcoming(today)]
        items = [
            _price(entry, upcoming)
            for entry, upcoming in sorted(entries, key=lambda item: (item[0].key, item[1], item[0].begin))
            if provider in (None, entry.provider) and region in (None, entry.region) and name in (None, entry.model)
        ]
        return ModelPrices(sheet_id=self.sheet.sheet_id, items=items)

    async def reload(
        self, upload: bytes | None, actor: Actor, *, force: bool = False, dry_run: bool = False
    ) -> PricesReloaded:
        """Load an uploaded sheet over what is configured; or without one what is configured, and no uploaded sheet.

        Every replica follows. What is configured is read again by each of them from its own file and environment.

        Raises:
            Invalid: the sheet cannot be used; the old one stays.
        """
        if force and upload is None:
            raise Invalid('belongs to an uploaded sheet; a configured one says "force": true itself', field="force")
        async with self._reloading:
            try:
                sheet = await self._configured()
                if upload is not None:
                    upload = upload.removeprefix(codecs.BOM_UTF8)
                    sheet = await asyncio.to_thread(self._put_upload, sheet, upload, force)
            except PriceSheetError as error:
                raise Invalid(str(error), field=None if upload is None else "sheet") from None
            reloaded = _reloaded(self.sheet, sheet, dry_run=dry_run)
            if not dry_run:
                async with self._store.write() as connection:
                    await self._commit(connection, upload, actor, reloaded)
                self.sheet = sheet
        return reloaded

    def note_unknown(self, provider: str, model: str) -> None:
        """A model without a price was charged at the dearest one: said once in the log, and shown until it has one."""
        if (provider, model) not in self._unknown and len(self._unknown) < MOST_UNKNOWN:
            self._unknown[provider, model] = None
            log.warning("price unknown", provider=provider, model=model)

    def unknown(self) -> list[dict[str, str]]:
        """The last models that were charged without a price of their own and still have none."""
        sheet = self.current()
        still = [(provider, model) for provider, model in self._unknown if not sheet.knows(provider, model)]
        return [{"provider": provider, "model": model} for provider, model in still[: -SHOWN_UNKNOWN - 1 : -1]]

    async def _configured(self) -> PriceSheet:
        return await asyncio.to_thread(self._put_layers)

    def _put_layers(self) -> PriceSheet:
        return with_layers(self._packaged, self._read_configured())

    def _put_upload(self, sheet: PriceSheet, document: bytes, force: bool) -> PriceSheet:
        return overlay(sheet, document, source="uploaded", packaged=self._packaged, force=force)

    async def _over_uploaded(self, sheet: PriceSheet) -> PriceSheet:
        async with self._store.read() as connection:
            document = await active_sheet(connection)
        if document is None:
            return sheet
        try:  # by force: whoever uploaded it was asked then
            return await asyncio.to_thread(self._put_upload, sheet, document.encode(), True)
        except PriceSheetError as error:  # written by another version of the daemon
            log.error("the uploaded price sheet cannot be used, the configured prices hold", reason=str(error))
            return sheet

    async def _commit(
        self, connection: AsyncConnection, upload: bytes | None, actor: Actor, reloaded: PricesReloaded
    ) -> None:
        now = self._now()
        await bump(connection, EPOCH, now)  # first: the counter's row makes writers queue
        await activate_sheet(connection, None if upload is None else upload.decode(), by=actor.name, at=now)
        counts = reloaded.model_dump(include={"sheet_id", "added", "changed", "removed"})
        await audit.record(
            connection,
            actor,
            "pricing.reload",
            at=now,
            subject=("price_sheet", reloaded.sheet_id),
            before={"sheet_id": reloaded.previous_sheet_id},
            after=counts | {"source": "configured" if upload is None else "uploaded"},
        )


def with_layers(packaged: PriceSheet, layers: Sequence[Layer]) -> PriceSheet:
    """The packaged sheet with what is configured over it.

    Raises:
        PriceSheetError: naming the layer that cannot be used.
    """
    sheet = packaged
    for layer in layers:
        try:
            sheet = overlay(sheet, layer.document, source=layer.source, packaged=packaged)
        except PriceSheetError as error:
            raise PriceSheetError(error.problems, layer.name) from None
    return sheet


def _reloaded(old: PriceSheet, new: PriceSheet, *, dry_run: bool) -> PricesReloaded:
    changes = [
        PriceChange(
            change=change.change,
            provider=change.provider,
            region=change.region,
            model=change.model,
            effective_date=change.since.isoformat() if change.since else None,
            old=dict(change.old),
            new=dict(change.new),
        )
        for change in diff(old, new)
    ]
    kinds = [change.change for change in changes]
    return PricesReloaded(
        result="dry_run" if dry_run else "reloaded" if changes else "unchanged",
        sheet_id=new.sheet_id,
        previous_sheet_id=old.sheet_id,
        added=kinds.count("added"),
        changed=kinds.count("changed"),
        removed=kinds.count("removed"),
        items=changes,
    )


def _price(entry: core.ModelPrice, upcoming: bool) -> ModelPrice:
    return ModelPrice(
        **_rates(entry.standard).model_dump(),
        provider=entry.provider,
        region=entry.region,
        model=entry.model,
        effective_date=entry.effective_date.isoformat(),
        source=entry.source,
        upcoming=upcoming,
        unconfirmed=entry.unconfirmed,
        long_context=_rates(entry.long_context, entry.long_context_above) if entry.long_context else None,
        fast=_rates(entry.fast) if entry.fast else None,
        inference_geo={geo: plain(factor) for geo, factor in entry.geo_factors.items()},
    )


def _rates(rates: Rates, above: int | None = None) -> TierPrice:
    return TierPrice(
        above_prompt_tokens=above,
        input_price_per_million=plain(rates.input),
        output_price_per_million=plain(rates.output),
        cache_write_5m_price_per_million=plain(rates.cache_write_5m),
        cache_write_1h_price_per_million=plain(rates.cache_write_1h) if rates.cache_write_1h is not None else None,
        cache_read_price_per_million=plain(rates.cache_read),
    )
