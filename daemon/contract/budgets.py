"""Budgets: what a user may spend in a period, and how much of it is gone. Money is a string of dollars, exact."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field, StringConstraints

from daemon.contract.common import Answer, Request

BudgetPeriod = Literal["daily", "weekly", "monthly"]
# "10", "10.50", "0.000001"; digits of ASCII only, no sign, no exponent
Dollars = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,6}(\.[0-9]{1,6})?$")]


class BudgetUpdate(Request):
    """A budget from now on. `budget_usd` null: no limit; 0 blocks everything that counts. An absent period stays."""

    budget_usd: Dollars | None
    period: BudgetPeriod | None = None


class BudgetStatus(Answer):
    """A budget in its current period. `spent_usd` is settled, `reserved_usd` belongs to requests under way.

    `scope` says whose cost counts: `bedrock`, or `all` providers. Without a limit `budget_usd`, `remaining_usd` and
    `percent` are null.
    """

    user_id: UUID
    user_name: str
    team: str | None
    budget_usd: str | None
    period: BudgetPeriod
    period_start: datetime
    resets_at: datetime
    spent_usd: str
    reserved_usd: str
    remaining_usd: str | None
    percent: Annotated[float | None, Field(ge=0)]
    exceeded: bool
    scope: Literal["bedrock", "all"]
    mode: Literal["strict", "balanced", "off"]
    version: int
