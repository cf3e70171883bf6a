"""Model mappings: what the operator maps, merged with the environment and the package, and what comes of it."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from daemon.contract.common import Page, RoutingStrategy
from daemon.contract.models import (
    MappingSource,
    ModelMapping,
    ModelMappingCreate,
    ModelMappingCreated,
    ModelMappingUpdate,
    ModelResolution,
    RegionSource,
)
from daemon.core import mapping
from daemon.core.mapping import PREFIXES, Catalogue, Target, Unmapped, check_target, is_region
from daemon.core.strategy import Route, plan_route
from daemon.services import audit, cursors
from daemon.services.audit import Actor
from daemon.services.errors import Conflict, Invalid, NotFound, check_version
from daemon.services.ids import uuid7
from daemon.services.users import live_user
from daemon.store.engine import Store
from daemon.store.epochs import bump
from daemon.store.filters import live
from daemon.store.routing import load_mappings
from daemon.store.tables import access_keys, bedrock_keys, compatibility, model_mappings, users

MOST_MAPPINGS = 1000
# Lists page by id. What is not in the database has none, and comes after every UUIDv7 there will be.
_AFTER_ALL = 0xFFFF << 112


@dataclass(frozen=True, slots=True)
class Subject:
    """For whom a model is resolved: nobody in particular, a user, or an access key."""

    user_id: UUID | None = None
    access_key_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a request for Bedrock would go, and for whom."""

    region: str
    region_source: RegionSource
    profile: str | None
    route: str  # auto, or what the key's owner decided
    facts: dict[str, Any]


class Models:
    """Use cases of model mappings. `on_change` runs after every commit that changes where a model goes."""

    def __init__(
        self,
        store: Store,
        *,
        now: Callable[[], datetime],
        token_bytes: Callable[[int], bytes],
        catalogue: Catalogue,
        environment: Mapping[str, str],
        default_region: str,
        is_priced: Callable[[str, str], bool],
        on_change: Callable[[], None],
    ) -> None:
        self._store = store
        self._now = now
        self._token_bytes = token_bytes
        self._catalogue = catalogue
        self._environment = environment
        self._default_region = default_region
        self._is_priced = is_priced
        self._on_change = on_change

    async def mappings(self) -> dict[str, str]:
        """The operator's mappings, by the model that is asked for."""
        async with self._store.read() as connection:
            return await load_mappings(connection)

    async def list_mappings(
        self, *, limit: int, cursor: str | None, claude_model: str | None = None, source: MappingSource | None = None
    ) -> Page[ModelMapping]:
        """All layers: the database's in the order of creation, the environment's, the packaged."""
        after = cursors.decode_id(cursor)
        query = select(model_mappings).where(live(model_mappings)).order_by(model_mappings.c.id)
        async with self._store.read() as connection:
            rows = (await connection.execute(query)).mappings().all()
        database = {row["claude_model"]: row["bedrock_model"] for row in rows}
        found = [
            (position, view)
            for position, view in [*((row["id"], self._of_row(row, database)) for row in rows), *self._fixed(database)]
            if (claude_model is None or view.claude_model == claude_model)
            and (source is None or view.source == source)
            and (after is None or position > after)
        ]
        more = cursors.encode(found[limit - 1][0]) if len(found) > limit else None
        return Page(items=[view for _, view in found[:limit]], next_cursor=more)

    async def create_mapping(self, wanted: ModelMappingCreate, actor: Actor) -> ModelMappingCreated:
        """A new mapping.

        Raises:
            Conflict: the database maps that model already.
            Invalid: the target is no Bedrock id, or there are too many mappings.
        """
        _check(wanted.bedrock_model)
        now = self._now()
        values = wanted.model_dump() | {"id": uuid7(now, self._token_bytes), "version": 1}
        values |= {"created_at": now, "updated_at": now}
        try:
            async with self._store.write() as connection:
                await self._begin(connection)
                count = select(func.count()).select_from(model_mappings).where(live(model_mappings))
                if (await connection.scalar(count) or 0) >= MOST_MAPPINGS:
                    raise Invalid(f"there are {MOST_MAPPINGS} mappings already, the most that are kept")
                await connection.execute(insert(model_mappings).values(values))
                await self._record(connection, actor, "create", values["id"], after=wanted.model_dump())
        except IntegrityError:
            raise Conflict(f"model {wanted.claude_model!r} is mapped already", field="claude_model") from None
        self._on_change()
        view = self._of_row(values, await self.mappings())
        return ModelMappingCreated.model_validate(view.model_dump() | {"result": "created"})

    async def update_mapping(
        self, mapping_id: UUID, wanted: ModelMappingUpdate, actor: Actor, *, version: int | None
    ) -> ModelMapping:
        """Give a mapping another target. With `version`, only if the mapping still has it.

        Raises:
            NotFound, Conflict (stale version), Invalid (the target is no Bedrock id).
        """
        _check(wanted.bedrock_model)
        async with self._store.write() as connection:
            await self._begin(connection)
            row = await _live_mapping(connection, mapping_id)
            check_version(row, version, "mapping")
            changes = wanted.model_dump(exclude_unset=True)
            changed = {field: value for field, value in changes.items() if row[field] != value}
            if changed:
                before = {field: row[field] for field in changed}
                values = changed | {"version": row["version"] + 1, "updated_at": self._now()}
                statement = update(model_mappings).where(model_mappings.c.id == mapping_id, live(model_mappings))
                await connection.execute(statement.values(values))
                await self._record(connection, actor, "update", mapping_id, before=before, after=changed)
                row |= values
        if changed:
            self._on_change()
        return self._of_row(row, await self.mappings())

    async def delete_mapping(self, mapping_id: UUID, actor: Actor, *, version: int | None = None) -> None:
        """Delete a mapping: the model goes where the layers below say.

        Raises:
            NotFound, Conflict (stale version).
        """
        now = self._now()
        async with self._store.write() as connection:
            await self._begin(connection)
            row = await _live_mapping(connection, mapping_id)
            check_version(row, version, "mapping")
            gone = update(model_mappings).where(model_mappings.c.id == mapping_id, live(model_mappings))
            await connection.execute(gone.values(deleted_at=now, updated_at=now))
            before = {"claude_model": row["claude_model"], "bedrock_model": row["bedrock_model"]}
            await self._record(connection, actor, "delete", mapping_id, before=before)
        self._on_change()

    async def resolve(
        self, model: str, *, subject: Subject | None = None, region: str | None = None, profile: str | None = None
    ) -> ModelResolution:
        """What would happen to a request for `model`, found without calling anybody.

        Raises:
            NotFound: the user or the access key does not exist.
            Invalid: the region or the profile is none, or the key is another user's.
        """
        if region is not None and not is_region(region):
            raise Invalid("is not a region with Bedrock", field="region")
        if profile is not None and profile not in (*PREFIXES, "none"):
            raise Invalid(f"expected one of {', '.join(PREFIXES)} or none", field="profile")
        async with self._store.read() as connection:
            place = await self._place(connection, subject or Subject(), region, profile)
            learned = await self._learned(connection, place.region)
            database = await load_mappings(connection)
        found = mapping.resolve(
            model,
            catalogue=self._catalogue,
            database=database,
            environment=self._environment,
            region=place.region,
            preference=place.profile,
            rejected={value for _, kind, value in learned if kind == "profile"},
        )
        outcome = self._of_target(found, place, learned)
        return ModelResolution.model_validate({"model": model} | _of_place(place) | outcome)

    async def _place(
        self, connection: AsyncConnection, subject: Subject, region: str | None, profile: str | None
    ) -> _Place:
        """Where the subject's requests go: what was asked for goes before what its Bedrock key says."""
        facts: dict[str, Any] = {}
        key = None
        if subject.access_key_id is not None:
            key = await _key(connection, subject.access_key_id)
            if subject.user_id not in (None, key.user_id):
                raise Invalid("is not a key of this user", field="access_key_id")
            facts = _facts(key.user_id, key.user_name, key.routing_strategy)
            facts |= {"access_key_id": key.id, "access_key_name": key.name, "has_bedrock_key": key.region is not None}
        elif subject.user_id is not None:
            user = await live_user(connection, subject.user_id)
            facts = _facts(user["id"], user["name"], user["routing_strategy"])
        registered = key is not None and key.region is not None
        return _Place(
            region=region or (key.region if key and registered else self._default_region),
            region_source="query" if region else "bedrock_key" if registered else "default",
            profile=profile or (_preference(key.options) if key and registered else None),
            route=key.route if key and registered else "auto",
            facts=facts,
        )

    async def _learned(self, connection: AsyncConnection, region: str) -> set[tuple[str, str, str]]:
        """Model, kind and value of what Bedrock has taught about profiles and routes in a region."""
        query = select(compatibility.c.model, compatibility.c.kind, compatibility.c.value).where(
            compatibility.c.provider == "bedrock",
            compatibility.c.kind.in_(("profile", "route")),
            compatibility.c.region == region,
            compatibility.c.expires_at > self._now(),
        )
        return {(row.model, row.kind, row.value) for row in await connection.execute(query)}

    def _of_target(
        self, found: Target | Unmapped, place: _Place, learned: Collection[tuple[str, str, str]]
    ) -> dict[str, Any]:
        if isinstance(found, Unmapped):
            return {"mapped": False, "reason": found.reason}
        taught = "invoke" if (found.bedrock_id, "route", "invoke") in learned else found.route
        return {
            "mapped": True,
            "source": found.source,
            "bedrock_model": found.bedrock_id,
            "alternatives": list(found.alternatives),
            "route": taught if place.route == "auto" else place.route,
            "price_known": self._is_priced(found.model, found.price_region),
            "price_model": found.model,
            "price_region": found.price_region,
        }

    def _fixed(self, database: Mapping[str, str]) -> list[tuple[UUID, ModelMapping]]:
        """The layers that are not in the database, at positions after all that are."""
        packaged = {entry.model: entry.base_id for entry in self._catalogue.entries.values()}
        layers: tuple[tuple[MappingSource, Mapping[str, str]], ...] = (
            ("environment", self._environment),
            ("packaged", packaged),
        )
        views = [
            self._view(database, source=source, claude_model=model, bedrock_model=layer[model])
            for source, layer in layers
            for model in sorted(layer)
        ]
        return [(UUID(int=_AFTER_ALL + number), view) for number, view in enumerate(views)]

    def _of_row(self, row: Any, database: Mapping[str, str]) -> ModelMapping:
        return self._view(database, **(dict(row) | {"source": "database"}))

    def _view(self, database: Mapping[str, str], **values: Any) -> ModelMapping:
        """A mapping, with what comes of it in the default region.

        Where another layer is above it, its own route and price are still told: what it would do if that one went.
        """
        model, source, target = values["claude_model"], values["source"], values["bedrock_model"]
        resolved = partial(mapping.resolve, model, catalogue=self._catalogue, region=self._default_region)
        above = resolved(database=database, environment=self._environment)
        own = resolved(database={model: target}, environment={})
        assert isinstance(own, Target)  # it is mapped: by itself
        blank = {"id": None, "description": None, "version": None, "created_at": None, "updated_at": None}
        return ModelMapping.model_validate(
            blank
            | values
            | {
                "effective": isinstance(above, Target) and above.source == source,
                "route": own.route,
                "price_known": self._is_priced(own.model, own.price_region),
            }
        )

    async def _begin(self, connection: AsyncConnection) -> None:
        """Announce the change first: the counter's row makes writers queue, so that counting them is exact."""
        await bump(connection, "models", self._now())

    async def _record(
        self,
        connection: AsyncConnection,
        actor: Actor,
        verb: str,
        mapping_id: UUID,
        *,
        before: dict[str, Any] | None = None,
        after: dict[str, Any] | None = None,
    ) -> None:
        subject = ("model_mapping", mapping_id)
        action = f"model_mapping.{verb}"
        await audit.record(connection, actor, action, at=self._now(), subject=subject, before=before, after=after)


def _check(bedrock_model: str) -> None:
    problem = check_target(bedrock_model)
    if problem is not None:
        raise Invalid(problem, field="bedrock_model")


async def _live_mapping(connection: AsyncConnection, mapping_id: UUID) -> dict[str, Any]:
    query = select(model_mappings).where(model_mappings.c.id == mapping_id, live(model_mappings)).with_for_update()
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        raise NotFound("no such model mapping")
    return dict(row)


async def _key(connection: AsyncConnection, key_id: UUID) -> Any:
    """A live access key with its user, and its Bedrock key's region, route and options when it has one."""
    query = (
        select(
            access_keys.c.id,
            access_keys.c.name,
            users.c.id.label("user_id"),
            users.c.name.label("user_name"),
            users.c.routing_strategy,
            bedrock_keys.c.region,
            bedrock_keys.c.route,
            bedrock_keys.c.options,
        )
        .join(users, users.c.id == access_keys.c.user_id)
        .outerjoin(bedrock_keys, (bedrock_keys.c.access_key_id == access_keys.c.id) & live(bedrock_keys))
        .where(access_keys.c.id == key_id, live(access_keys), live(users))
    )
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise NotFound("no such access key")
    return row


def _facts(user_id: UUID, name: str, strategy: RoutingStrategy) -> dict[str, Any]:
    route = plan_route(strategy, available=("plan", "bedrock"), sticky=None)
    order = list(route.providers) if isinstance(route, Route) else []
    return {"user_id": user_id, "user_name": name, "routing_strategy": strategy, "providers": order}


def _of_place(place: _Place) -> dict[str, Any]:
    own = {"region": place.region, "region_source": place.region_source, "profile": place.profile}
    return own | place.facts


def _preference(options: Mapping[str, Any]) -> str | None:
    """The profile that the key's owner prefers."""
    preferred = options.get("profile")
    return preferred if preferred in (*PREFIXES, "none") else None
