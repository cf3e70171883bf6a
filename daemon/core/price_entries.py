"""Reading one price: its rates, tiers, factors and day, in either of the two forms of a sheet."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

from daemon.core.json_places import JsonDocument, NotJson, Path, Problem
from daemon.core.prices import RATES, Key, ModelPrice, Rates, Source

MOST_PROBLEMS = 20
LONGEST_NAME = 256
_OTHERS = ("long_context", "fast", "inference_geo", "effective_date", "unconfirmed")
_NUMBER = re.compile(r"[0-9]{1,7}(\.[0-9]{1,18})?([eE][+-]?[0-9]{1,2})?")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_FINEST = Decimal("1e-9")
_GEO = re.compile(r"[a-z0-9-]{1,16}")
_DEAREST, _LARGEST_FACTOR, _LARGEST_PROMPT = Decimal(10_000), Decimal(10), 10**9  # the ledger has columns for these


class PriceSheetError(ValueError):
    """A price sheet that cannot be used; each problem names the place."""

    def __init__(self, problems: Sequence[Problem], name: str = "price sheet") -> None:
        super().__init__(f"{name}: {'; '.join(str(problem) for problem in problems)}")
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Form:
    """How an entry is spelled. `partial`: what it does not name is taken from the price below."""

    spelling: Mapping[str, str]
    partial: bool


PACKAGE = Form({name: name for name in RATES}, partial=False)
GUIDE = Form({name: f"{name.removesuffix('_5m')}_price_per_million" for name in RATES}, partial=True)


class Reader:
    """A JSON document that is being read: values of the right kind come out, problems are gathered."""

    def __init__(self, document: bytes) -> None:
        """Raises PriceSheetError when it is not a JSON object."""
        try:
            self._document = JsonDocument(document)
        except NotJson as error:
            raise PriceSheetError([error.problem], "price sheet is not JSON") from None
        self._problems: list[Problem] = []
        self.root = self.fields(self._document.root, (), "price sheet")
        for path in self._document.written_twice():
            self.report(path, f"{path[-1]!r} is written twice")

    def report(self, path: Path, message: str) -> None:
        """Note a problem."""
        readable = message.encode("ascii", "backslashreplace").decode()  # whatever a name is made of
        self._problems.append(self._document.problem(path, readable))

    def refuse(self) -> None:
        """Raise what was noted, the first in the text first."""
        if self._problems:
            ordered = sorted(self._problems, key=lambda problem: (problem.line or 0, problem.column or 0))
            raise PriceSheetError(ordered[:MOST_PROBLEMS])

    def fields(self, node: object, path: Path, where: str) -> Mapping[str, Any]:
        """An object; an empty one when it is none."""
        if isinstance(node, dict):
            return node
        self.report(path, f"{where}: expected an object")
        return {}

    def items(self, node: object, path: Path, where: str) -> Sequence[Any]:
        """A list; an empty one when it is none."""
        if isinstance(node, list):
            return node
        self.report(path, f"{where}: expected a list")
        return ()

    def day(self, node: object, path: Path, where: str) -> date | None:
        """A day as in 2026-01-31; None when it is none."""
        if isinstance(node, str) and _DAY.fullmatch(node):
            try:
                return date.fromisoformat(node)
            except ValueError:
                pass
        self.report(path, f"{where}: expected a day such as 2026-01-31")
        return None

    def number(self, node: object, path: Path, where: str, *, largest: Decimal, unit: str) -> Decimal | None:
        """A positive number of bounded size, written as a number or as a string; None when it is none."""
        text = str(node)
        number = Decimal(text) if _NUMBER.fullmatch(text) else Decimal(0)
        if isinstance(node, str | int | Decimal) and 0 < number <= largest:
            return number
        self.report(path, f"{where}: expected a positive number of {unit}, at most {largest}, got {text[:40]!r}")
        return None

    def known(self, fields: Mapping[str, Any], path: Path, where: str, names: Sequence[str]) -> None:
        """Refuse fields with other names: a typing error must not pass for a price."""
        for name in fields:
            if name not in names:
                self.report((*path, name), f"{where}: {name[:LONGEST_NAME]} is not a known field")


@dataclass(frozen=True, slots=True)
class EntryReader:
    """Reads the entries of one document."""

    reader: Reader
    form: Form
    source: Source
    effective_date: date

    def entry(
        self, key: Key, node: object, path: Path, below: ModelPrice | None, since: date | None
    ) -> ModelPrice | None:
        """The price that `node` states; None when it cannot be read. `below` is the price that it is put over."""
        provider, region, model = key
        where = where_of(key)
        fields = self.reader.fields(node, path, where)
        self.reader.known(fields, path, where, (*self.form.spelling.values(), *_OTHERS))
        below = below if self.form.partial else None
        standard = self._rates(fields, path, where)
        above, long_context = self._long_context(fields, path, where, below)
        fast, factors = self._fast(fields, path, where, below), self._factors(fields, path, where, below)
        unconfirmed = fields.get("unconfirmed", False)
        if not isinstance(unconfirmed, bool):
            self.reader.report((*path, "unconfirmed"), f"{where}, unconfirmed: expected true or false")
        if standard is None:
            return None
        entry = ModelPrice(
            model=model,
            provider=provider,
            region=region,
            standard=standard,
            long_context_above=above,
            long_context=long_context,
            fast=fast,
            geo_factors=factors,
            effective_date=since or self.effective_date,
            since=since,
            unconfirmed=unconfirmed is True,
            source=self.source,
        )
        self._check_fineness(entry, path)
        return entry

    def since(self, key: Key, node: object, path: Path) -> date | None:
        """The day from which an entry holds; None when it names none."""
        if not isinstance(node, dict) or "effective_date" not in node:
            return None
        place = (*path, "effective_date")
        return self.reader.day(node["effective_date"], place, f"{where_of(key)}, effective_date")

    def _rates(self, fields: Mapping[str, Any], path: Path, where: str) -> Rates | None:
        found: dict[str, Decimal | None] = {"cache_write_1h": None}
        for rate, name in self.form.spelling.items():
            place = (*path, name)
            if name in fields:
                found[rate] = self.reader.number(
                    fields[name], place, f"{where}, {name}", largest=_DEAREST, unit="dollars"
                )
            elif rate != "cache_write_1h":
                self.reader.report(path, f"{where}: {name} is missing")
        if any(found.get(rate) is None for rate in RATES if rate != "cache_write_1h"):
            return None
        return Rates(**found)  # type: ignore[arg-type]

    def _long_context(
        self, fields: Mapping[str, Any], path: Path, where: str, below: ModelPrice | None
    ) -> tuple[int | None, Rates | None]:
        if "long_context" not in fields:
            return (below.long_context_above, below.long_context) if below else (None, None)
        node, place, inner = fields["long_context"], (*path, "long_context"), f"{where}, long_context"
        rates = self._tier(node, place, inner, also="above_prompt_tokens")
        above = node.get("above_prompt_tokens") if isinstance(node, dict) else None
        if rates is not None and (type(above) is not int or not 0 < above <= _LARGEST_PROMPT):
            self.reader.report(
                (*place, "above_prompt_tokens"), f"{inner}, above_prompt_tokens: expected a number of tokens"
            )
        return above, rates

    def _fast(self, fields: Mapping[str, Any], path: Path, where: str, below: ModelPrice | None) -> Rates | None:
        if "fast" not in fields:
            return below.fast if below else None
        return self._tier(fields["fast"], (*path, "fast"), f"{where}, fast")

    def _tier(self, node: object, path: Path, where: str, also: str = "") -> Rates | None:
        """The rates of a tier; null takes away the tier of the price below."""
        if node is None:
            return None
        fields = self.reader.fields(node, path, where)
        self.reader.known(fields, path, where, (*self.form.spelling.values(), also))
        return self._rates(fields, path, where)

    def _factors(
        self, fields: Mapping[str, Any], path: Path, where: str, below: ModelPrice | None
    ) -> Mapping[str, Decimal]:
        if "inference_geo" not in fields:
            return below.geo_factors if below else {}
        place, inner = (*path, "inference_geo"), f"{where}, inference_geo"
        found = {}
        for geo, node in self.reader.fields(fields["inference_geo"] or {}, place, inner).items():
            factor = self.reader.number(
                node, (*place, geo), f"{inner}, {geo}", largest=_LARGEST_FACTOR, unit="times the price"
            )
            if not _GEO.fullmatch(geo):
                self.reader.report((*place, geo), f"{inner}: expected a name such as us, got {geo[:40]!r}")
            if factor is not None:
                found[geo] = factor
        return found

    def _check_fineness(self, entry: ModelPrice, path: Path) -> None:
        """Costs are exact only where no price, times no factor, is finer than a nano-dollar."""
        for factor in (Decimal(1), *entry.geo_factors.values()):
            for rates in entry.tiers().values():
                for name in RATES:
                    rate = getattr(rates, name)
                    if rate is not None and not _is_whole_nano(rate * factor):
                        self.reader.report(
                            path, f"{where_of(entry.key)}: {name} times {factor} has more than nine decimals"
                        )


def where_of(key: Key) -> str:
    """Model, provider and region, as problems name them."""
    provider, region, model = key
    return f"{model[:LONGEST_NAME]}, {provider[:LONGEST_NAME]}, {region[:LONGEST_NAME]}"


def _is_whole_nano(dollars: Decimal) -> bool:
    return dollars == dollars.quantize(_FINEST)
