"""Reading price sheets: the packaged one, and what operators put over it, in either of two forms.

The form of the package lists models with all their prices; an entry says everything about its price. The form of
`PROXY_MODEL_PRICING` maps provider, region and model to a price; what an entry does not name (tiers, factors) stays.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Any

from daemon.core import mapping
from daemon.core.json_places import Path
from daemon.core.price_changes import implausible
from daemon.core.price_entries import GUIDE, LONGEST_NAME, PACKAGE, EntryReader, PriceSheetError, Reader, where_of
from daemon.core.prices import PROVIDERS, REGIONS, Key, ModelPrice, PriceSheet, Source, normalise_model

__all__ = ["FORMAT", "PriceSheetError", "load_sheet", "overlay"]

FORMAT = "proxyctl/models/v1"
_MODEL = re.compile(r"[\x21-\x7e]{1,256}")


def load_sheet(document: bytes) -> PriceSheet:
    """Read a whole price sheet, in the form of the package.

    Raises:
        PriceSheetError: naming line, model, provider, region and field of at most 20 problems.
    """
    found = _Layer(document, PriceSheet("", date.min, {}, {}), "packaged")
    found.read_package()
    if {entry.provider for entry, _ in found.entries if entry.since is None} != set(PROVIDERS):
        found.reader.report(("models",), "models: expected at least one price for plan and one for bedrock")
    found.reader.refuse()
    return found.sheet()


def overlay(
    below: PriceSheet, document: bytes, *, source: Source, packaged: PriceSheet, force: bool = False
) -> PriceSheet:
    """`below` with the prices of a document of either form over it; what the document does not name stays.

    A price that is more than twenty times away from the packaged one is refused, unless `force`, or `"force": true` in
    the document, says that it is meant.

    Raises:
        PriceSheetError: as for `load_sheet`; nothing of the document is taken then.
    """
    found = _Layer(document, below, source)
    root = found.reader.root
    if "format" in root or "models" in root:
        found.read_package()
    else:
        found.read_guide()
    if not (force or root.get("force") is True):
        for entry, path in found.entries:
            for message in implausible(entry, packaged):
                found.reader.report(path, f'{where_of(entry.key)}: {message} ("force": true takes it)')
    found.reader.refuse()
    return found.sheet() if found.entries or found.names else below


class _Layer:
    """One document on its way over the sheet below."""

    def __init__(self, document: bytes, below: PriceSheet, source: Source) -> None:
        self.reader = Reader(document)
        self.entries: list[tuple[ModelPrice, Path]] = []
        self.names: dict[str, str] = {}
        self._document = document
        self._below = below
        self._source = source
        self._effective_date = below.effective_date

    def sheet(self) -> PriceSheet:
        """The sheet below with what was read over it."""
        prices, changes = _over(self._below, [entry for entry, _ in self.entries])
        identifier = hashlib.sha256(self._below.sheet_id.encode() + self._document).hexdigest()[:16]
        return PriceSheet(identifier, self._effective_date, prices, {**self._below.names, **self.names}, changes)

    def read_package(self) -> None:
        """Take what a document in the form of the package says."""
        root = self.reader.root
        expected = {"currency": "USD", "unit": "million tokens", "format": FORMAT}
        for name, value in expected.items():
            if root.get(name, value if name != "format" else None) != value:
                self.reader.report((name,), f"{name}: expected {value!r}")
        if "effective_date" in root or not self._below.sheet_id:
            day = self.reader.day(root.get("effective_date"), ("effective_date",), "effective_date")
            self._effective_date = day or date.min
        entries = EntryReader(self.reader, PACKAGE, self._source, self._effective_date)
        for number, model in enumerate(self.reader.items(root.get("models"), ("models",), "models")):
            self._read_model(model, ("models", number), entries)

    def read_guide(self) -> None:
        """Take what a document in the form of `PROXY_MODEL_PRICING` says; without providers it is about Bedrock."""
        named = {name: node for name, node in self.reader.root.items() if name != "force"}
        by_provider = bool(named) and all(name in PROVIDERS for name in named)
        entries = EntryReader(self.reader, GUIDE, self._source, self._effective_date)
        for provider, regions in named.items() if by_provider else [("bedrock", named)]:
            start: Path = (provider,) if by_provider else ()
            for region, models in self.reader.fields(regions, start, provider).items():
                path: Path = (*start, region)
                for model, node in self.reader.fields(models, path, f"{provider}, {region}").items():
                    name = self._name(model, (*path, model))
                    self.names |= {model: name, normalise_model(model): name}
                    self._read_prices((provider, region, name), node, (*path, model), entries)

    def _read_model(self, model: object, path: Path, entries: EntryReader) -> None:
        fields = self.reader.fields(model, path, f"models[{path[-1]}]")
        identifier = fields.get("id")
        if not isinstance(identifier, str):
            self.reader.report((*path, "id"), f"models[{path[-1]}]: expected an id")
            return
        name = self._name(identifier, path)
        aliases = self.reader.items(fields.get("aliases", []), (*path, "aliases"), f"{identifier}, aliases")
        for alias in (identifier, normalise_model(identifier), *map(str, aliases)):
            if self.names.setdefault(alias, name) != name or self._below.names.get(alias, name) != name:
                self.reader.report((*path, "aliases"), f"{identifier}: {alias!r} is another model's name")
        for provider, regions in self._providers(fields, path, identifier):
            inner: Path = (*path, "prices", provider)
            for region, node in self.reader.fields(regions, inner, f"{identifier}, {provider}").items():
                self._read_prices((provider, region, name), node, (*inner, region), entries)

    def _providers(self, fields: Mapping[str, Any], path: Path, identifier: str) -> Iterator[tuple[str, Any]]:
        place: Path = (*path, "prices")
        for provider, regions in self.reader.fields(fields.get("prices", {}), place, f"{identifier}, prices").items():
            if provider in PROVIDERS:
                yield provider, regions
            else:
                message = f"{identifier}: unknown provider {provider!r}, expected plan or bedrock"
                self.reader.report((*place, provider), message)

    def _name(self, model: str, path: Path) -> str:
        """The id of a model that is known already; else what it is called here, without what Bedrock adds."""
        if not _MODEL.fullmatch(model):
            self.reader.report(path, f"{model[:LONGEST_NAME]!r}: expected the name of a model")
        known = self._below.name_of(model) or self.names.get(normalise_model(model))
        return known or (normalise_model(model) if self._below.sheet_id else model)

    def _read_prices(self, key: Key, node: object, path: Path, entries: EntryReader) -> None:
        """The price, or the prices from several days on, of one model at one provider in one region."""
        provider, region, model = key
        if region in mapping.REGIONS:
            region = mapping.price_region("", region)
        if region not in REGIONS or (provider == "plan" and region != "global"):
            expected = "global" if provider == "plan" else ", ".join(REGIONS)
            self.reader.report(path, f"{where_of(key)}: unknown region, expected {expected}")
            return
        parts = [((*path, n), part) for n, part in enumerate(node)] if isinstance(node, list) else [(path, node)]
        for place, part in parts:
            self._read_price((provider, region, model), part, place, entries)

    def _read_price(self, key: Key, node: object, path: Path, entries: EntryReader) -> None:
        since = entries.since(key, node, path)
        below = self._below.on(since) if since else self._below
        entry = entries.entry(key, node, path, below.prices.get(key), since)
        if entry is None:
            return
        if any((entry.key, entry.since) == (other.key, other.since) for other, _ in self.entries):
            day = f"from {since}" if since else "without an effective_date"
            self.reader.report(path, f"{where_of(key)}: there is another price {day}")
        self.entries.append((entry, path))


def _over(below: PriceSheet, entries: Sequence[ModelPrice]) -> tuple[dict[Key, ModelPrice], tuple[ModelPrice, ...]]:
    """Prices and changes with `entries` over them: each holds from its day on, whatever was to come below."""
    starts: dict[Key, date] = {}
    for entry in entries:
        starts[entry.key] = min(entry.begin, starts.get(entry.key, date.max))
    undated = {entry.key: entry for entry in entries if entry.since is None}
    kept = [change for change in below.changes if change.begin < starts.get(change.key, date.max)]
    dated = [entry for entry in entries if entry.since is not None]
    return {**below.prices, **undated}, tuple(sorted([*kept, *dated], key=lambda entry: entry.begin))
