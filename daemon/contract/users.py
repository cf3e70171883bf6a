"""Users: the people and machines whose requests are counted."""

from datetime import datetime
from uuid import UUID

from daemon.contract.budgets import BudgetPeriod, Dollars
from daemon.contract.common import Answer, Description, Label, Name, Request, Result, RoutingStrategy


class User(Answer):
    """A user. `version` is also the ETag, to be sent back as If-Match."""

    id: UUID
    name: str
    description: str | None
    team: str | None
    is_active: bool
    routing_strategy: RoutingStrategy
    version: int
    created_at: datetime
    updated_at: datetime


class UserCreated(User):
    """The answer to a create."""

    result: Result


class UserCreate(Request):
    """A new user. Its name is unique among users that are not deleted.

    An absent `budget_usd` is the default budget of the daemon, null is none.
    """

    name: Name
    description: Description | None = None
    team: Label | None = None
    routing_strategy: RoutingStrategy = "plan_first"
    is_active: bool = True
    budget_usd: Dollars | None = None
    budget_period: BudgetPeriod = "monthly"


class UserUpdate(Request):
    """A change of a user: an absent field stays, null clears it."""

    name: Name | None = None
    description: Description | None = None
    team: Label | None = None
    routing_strategy: RoutingStrategy | None = None
    is_active: bool | None = None


class RoutingStrategyUpdate(Request):
    """The order in which providers are tried for a user."""

    routing_strategy: RoutingStrategy
