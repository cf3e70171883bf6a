"""A session as a tree: the main agent, the agents it started, theirs, and the requests of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from daemon.contract.usage import SessionAgent, SessionRequest, SessionTree, usd
from daemon.services.errors import NotFound
from daemon.services.usage_figures import figures, total
from daemon.services.usage_report import report_connection
from daemon.store import ledger
from daemon.store.engine import Store
from daemon.store.reports import FIGURES, Only

MOST_REQUESTS = 2000
_DEEPEST = 12  # agents that start agents that start agents; what claims to lie deeper stands under the session


@dataclass(slots=True)
class _Agent:
    numbers: list[int] = field(default_factory=lambda: [0] * len(FIGURES))
    parent: str | None = None
    requests: list[SessionRequest] = field(default_factory=list)


class UsageSessions:
    """Trees of sessions, from the ledger."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def tree(self, session_id: str, *, user_id: UUID | None = None) -> SessionTree:
        """The tree of one session; of one user's requests in it, when two users' clients claim the same id.

        Raises:
            NotFound: the ledger has no request of it.
        """
        only = Only(user_id=user_id, session_id=session_id)
        async with report_connection(self._store) as connection:
            sums = await ledger.session_agents(connection, only)
            rows = await ledger.session_requests(connection, only, most=MOST_REQUESTS + 1)
        if not sums:
            raise NotFound("there is no request of this session in the ledger")
        return SessionTree(
            session_id=session_id,
            user_ids=sorted({row["user_id"] for row in sums if row["user_id"] is not None}),
            first_at=min(row["first"] for row in sums),
            last_at=max(row["last"] for row in sums),
            truncated=len(rows) > MOST_REQUESTS,
            root=_tree([dict(row) for row in sums], [dict(row) for row in rows[:MOST_REQUESTS]]),
        )


def _tree(sums: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> SessionAgent:
    agents: dict[str | None, _Agent] = {None: _Agent()}
    for row in sums:
        agent = agents.setdefault(row["agent_id"], _Agent())
        agent.numbers = total([agent.numbers, [int(row[name]) for name in FIGURES]])
        agent.parent = agent.parent or row["parent_agent_id"]
    for row in rows:
        agents.setdefault(row["agent_id"], _Agent()).requests.append(_request(row))
    children: dict[str | None, list[str | None]] = {}
    for agent_id in agents:
        if agent_id is not None:
            children.setdefault(_parent(agents, agent_id), []).append(agent_id)
    return _node(agents, children, None)


def _parent(agents: Mapping[str | None, _Agent], agent_id: str) -> str | None:
    """Who started an agent: the session itself when that is not known, goes in a circle, or is too deep."""
    parent = agents[agent_id].parent
    at: str | None = agent_id
    for _ in range(_DEEPEST):
        at = agents[at].parent if at in agents else None
        if at is None:
            return parent if parent in agents else None
    return None


def _node(
    agents: Mapping[str | None, _Agent], children: Mapping[str | None, list[str | None]], agent_id: str | None
) -> SessionAgent:
    agent = agents[agent_id]
    below = [_node(agents, children, child) for child in children.get(agent_id, [])]
    inside = [[getattr(node.totals, name) for name in FIGURES] for node in below]
    return SessionAgent(
        agent_id=agent_id,
        own=figures(agent.numbers),
        totals=figures(total([agent.numbers, *inside])),
        requests=agent.requests,
        agents=below,
    )


def _request(row: Mapping[str, Any]) -> SessionRequest:
    return SessionRequest.model_validate({**row, "cost_usd": usd(row["cost_nano_usd"])})
