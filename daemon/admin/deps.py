"""What the routers take from a request. All of it is asynchronous: FastAPI would call it in a thread otherwise."""

from typing import Annotated

from fastapi import Depends, Header, Query, Request

from daemon.contract.models import Provider
from daemon.contract.usage import Period
from daemon.services.audit import Actor
from daemon.services.identity import Identity
from daemon.services.registry import Services
from daemon.services.usage_range import Span

_STALE = -1
Moment = Annotated[
    str | None, Query(min_length=1, max_length=64, description="an instant with a zone, or a date in the budget's zone")
]


async def _services(request: Request) -> Services:
    services = request.app.state.services
    assert isinstance(services, Services)
    return services


async def _actor(request: Request) -> Actor:
    actor = request.state.actor
    assert isinstance(actor, Actor)
    return actor


async def _identity(request: Request) -> Identity:
    identity = request.state.identity
    assert isinstance(identity, Identity)
    return identity


async def _if_match(if_match: Annotated[str | None, Header()] = None) -> int | None:
    """The version a change is meant for; one that never existed when the header is not an ETag of ours."""
    if if_match is None or if_match.strip() == "*":
        return None
    number = if_match.strip().removeprefix("W/").strip('"')
    return int(number) if number.isascii() and number.isdigit() and len(number) < 10 else _STALE


async def _span(since: Moment = None, until: Moment = None, period: Period | None = None) -> Span:
    return Span(since, until, period)


TheServices = Annotated[Services, Depends(_services)]
TheActor = Annotated[Actor, Depends(_actor)]
TheIdentity = Annotated[Identity, Depends(_identity)]
Version = Annotated[int | None, Depends(_if_match)]
TheSpan = Annotated[Span, Depends(_span)]
Limit = Annotated[int, Query(ge=1, le=500)]
Cursor = Annotated[str | None, Query(max_length=256)]
ProviderName = Provider | None
Text = Annotated[str | None, Query(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f]*$")]
