"""Routing strategies: which providers are tried, in which order."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

Provider = Literal["plan", "bedrock"]
_ORDER: dict[str, tuple[Provider, ...]] = {
    "plan_first": ("plan", "bedrock"),
    "plan_only": ("plan",),
    "bedrock_first": ("bedrock", "plan"),
    "bedrock_only": ("bedrock",),
}


@dataclass(frozen=True, slots=True)
class Route:
    """Providers in the order in which they are tried."""

    providers: tuple[Provider, ...]


@dataclass(frozen=True, slots=True)
class NoRoute:
    """No provider is left: the ones of the strategy, none of which can be asked."""

    wanted: tuple[Provider, ...]


def plan_route(strategy: str, *, available: Collection[Provider], sticky: Provider | None) -> Route | NoRoute:
    """The route of a request.

    `available` are the providers a credential is at hand for. A session that has moved (`sticky`) starts where it is:
    prompt caches and thinking blocks belong to a provider.
    """
    wanted = _ORDER[strategy]
    order = tuple(provider for provider in wanted if provider in available)
    if not order:
        return NoRoute(wanted)
    if sticky in order:
        order = (sticky, *(provider for provider in order if provider != sticky))
    return Route(order)
