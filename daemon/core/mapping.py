"""From the model a client asks for to the model Bedrock is asked for.

Layers, first hit: the operator's mappings in the database, `PROXY_BEDROCK_MODEL_MAPPING`, the packaged map. There is
no default: a model nobody has mapped is an error that says so.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from daemon.core.prices import normalise_model

Route = Literal["messages", "invoke"]
Source = Literal["database", "environment", "packaged"]
PREFIXES = ("us-gov", "global", "apac", "us", "eu", "jp", "au")
REGIONS = (
    "us-east-1",
    "us-east-2",
    "us-west-1",
    "us-west-2",
    "us-gov-east-1",
    "us-gov-west-1",
    "ca-central-1",
    "ca-west-1",
    "sa-east-1",
    "eu-central-1",
    "eu-central-2",
    "eu-north-1",
    "eu-south-1",
    "eu-south-2",
    "eu-west-1",
    "eu-west-2",
    "eu-west-3",
    "ap-east-2",
    "ap-northeast-1",
    "ap-northeast-2",
    "ap-northeast-3",
    "ap-south-1",
    "ap-south-2",
    "ap-southeast-1",
    "ap-southeast-2",
    "ap-southeast-3",
    "ap-southeast-4",
    "ap-southeast-5",
    "ap-southeast-7",
    "il-central-1",
    "me-central-1",
    "me-south-1",
    "af-south-1",
    "mx-central-1",
)
_GEOGRAPHY = (
    ("us-gov-", "us-gov"),
    ("us-", "us"),
    ("ca-", "us"),
    ("eu-", "eu"),
    ("ap-northeast-1", "jp"),
    ("ap-northeast-3", "jp"),
    ("ap-southeast-2", "au"),
    ("ap-southeast-4", "au"),
)
_ARN = re.compile(
    r"arn:aws(-us-gov)?:bedrock:[a-z0-9-]+:(\d{12})?:"
    r"(application-inference-profile|inference-profile|provisioned-model|foundation-model)/[A-Za-z0-9.:_-]+"
)
_MODEL_ID = re.compile(r"(?:(?:us-gov|global|apac|us|eu|jp|au)\.)?anthropic\.[a-z0-9.-]+(?::\d+)?")
_DATE = re.compile(r"-\d{8}$")
_DATED_ON_BEDROCK = re.compile(r"-\d{8}-v\d|-v\d+(:\d+)?$")


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """What the package knows of one model on Bedrock. `features` are the capabilities known to be there or not."""

    model: str
    base_id: str
    route: Route
    profiles: tuple[str, ...]
    needs_profile: bool
    features: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Models on Bedrock by every name they are known under."""

    entries: Mapping[str, CatalogueEntry]

    def find(self, model: str) -> CatalogueEntry | None:
        """By Claude id, alias, Bedrock id or profile, with or without a date that nobody has heard of."""
        name = normalise_model(model)
        return self.entries.get(model) or self.entries.get(name) or self.entries.get(_DATE.sub("", name))


@dataclass(frozen=True, slots=True)
class Target:
    """Where a model goes: the id for the wire, the route, and whose prices hold."""

    bedrock_id: str
    route: Route
    source: Source
    model: str  # whose price it is; the mapping's own text when nobody knows the model
    price_region: str
    features: Mapping[str, Any] = field(default_factory=dict)
    alternatives: tuple[str, ...] = ()  # profiles to try when this one does not exist


@dataclass(frozen=True, slots=True)
class Unmapped:
    """Why a model cannot go to Bedrock."""

    reason: str


def load_catalogue(document: bytes) -> Catalogue:
    """The packaged models that Bedrock serves, from `daemon/data/models.json`."""
    entries: dict[str, CatalogueEntry] = {}
    for model in json.loads(document)["models"]:
        bedrock = model["bedrock"]
        if not bedrock or not bedrock["route"]:
            continue
        entry = CatalogueEntry(
            model=model["id"],
            base_id=bedrock["base_id"],
            route=bedrock["route"],
            profiles=tuple(bedrock["profiles"]),
            needs_profile=bedrock["needs_profile"],
            features=model["capabilities"]["bedrock"] or {},
        )
        for name in (model["id"], normalise_model(model["id"]), *model["aliases"], bedrock["base_id"]):
            entries[name] = entry
            entries.setdefault(normalise_model(name), entry)
    return Catalogue(entries)


def resolve(
    model: str,
    *,
    catalogue: Catalogue,
    database: Mapping[str, str],
    environment: Mapping[str, str],
    region: str,
    preference: str | None = None,
    rejected: Collection[str] = (),
) -> Target | Unmapped:
    """The target of a model for a credential in `region`, without profiles that are known not to exist."""
    mapped, source = _mapped(model, database, environment)
    entry = catalogue.find(mapped or model)
    if mapped is None:
        if entry is None:
            return Unmapped(f"model {model!r} has no Bedrock mapping: proxyctl models map {model} BEDROCK_ID")
        mapped = entry.base_id
    if mapped.startswith("arn:"):
        known = entry or catalogue.find(model)
        return _target(mapped, "invoke", source, known, mapped, price_region("", region))
    prefix, base = split_prefix(mapped)
    if prefix or (entry is not None and not entry.needs_profile):
        return _target(mapped, _route(entry, mapped), source, entry, mapped, price_region(prefix, region))
    ordered = [base] if preference == "none" else _profiles(base, entry, region, preference)
    usable = [profile for profile in ordered if profile not in rejected] or ordered
    chosen, rest = usable[0], tuple(usable[1:])
    prefix, _ = split_prefix(chosen)
    return _target(chosen, _route(entry, base), source, entry, mapped, price_region(prefix, region), rest)


def split_prefix(bedrock_id: str) -> tuple[str, str]:
    """Profile prefix (may be empty) and base id."""
    for prefix in PREFIXES:
        if bedrock_id.startswith(f"{prefix}."):
            return prefix, bedrock_id[len(prefix) + 1 :]
    return "", bedrock_id


def check_target(bedrock_id: str) -> str | None:
    """What is wrong with a Bedrock model id, None when nothing is."""
    if len(bedrock_id) > 512 or not (_MODEL_ID.fullmatch(bedrock_id) or _ARN.fullmatch(bedrock_id)):
        return "expected a Bedrock id such as us.anthropic.claude-sonnet-5-5, or an inference profile's ARN"
    return None


def is_region(text: str) -> bool:
    """Whether it is a region that may be asked: anything else in a host name would be somebody else's."""
    return text in REGIONS


def _mapped(model: str, database: Mapping[str, str], environment: Mapping[str, str]) -> tuple[str | None, Source]:
    name = normalise_model(model)
    spellings = (model, model.removesuffix("[1m]"), name, _DATE.sub("", name))
    layers: tuple[tuple[Source, Mapping[str, str]], ...] = (("database", database), ("environment", environment))
    for source, layer in layers:
        for spelling in spellings:
            if spelling in layer:
                return layer[spelling], source
    return None, "packaged"


def _profiles(base: str, entry: CatalogueEntry | None, region: str, preference: str | None) -> list[str]:
    """Profiles to try, best first: the operator's, `global`, the region's own geography, `us`.

    Of the two that work from this region, one that the package has seen goes before one it has not; but AWS adds
    profiles without notice, so all are tried.
    """
    geography = next((prefix for start, prefix in _GEOGRAPHY if region.startswith(start)), None)
    if geography == "us-gov":
        return [f"us-gov.{base}"]
    known = entry.profiles if entry else ()
    near = [f"{prefix}.{base}" for prefix in ("global", geography) if prefix]
    near.sort(key=lambda profile: profile not in known)
    wanted = [f"{preference}.{base}"] if preference else []
    return list(dict.fromkeys([*wanted, *near, f"us.{base}"]))


def _route(entry: CatalogueEntry | None, bedrock_id: str) -> Route:
    if entry is not None:
        return entry.route
    return "invoke" if _DATED_ON_BEDROCK.search(bedrock_id) else "messages"


def price_region(prefix: str, region: str) -> str:
    """Prices follow the profile's geography; what runs in the region itself costs what its geography does."""
    if prefix:
        return prefix
    return next((name for start, name in _GEOGRAPHY if region.startswith(start)), "apac")


def _target(
    bedrock_id: str,
    route: Route,
    source: Source,
    entry: CatalogueEntry | None,
    mapped: str,
    price_region: str,
    alternatives: tuple[str, ...] = (),
) -> Target:
    return Target(
        bedrock_id=bedrock_id,
        route=route,
        source=source,
        model=entry.model if entry else mapped,
        price_region=price_region,
        features=entry.features if entry else {},
        alternatives=alternatives,
    )
