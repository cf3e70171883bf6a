"""The composition root: builds every object from settings, owns the order of start and stop."""

import asyncio
import os
import random
import secrets
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from uuid import UUID

import structlog
from uuid_utils import uuid7

from daemon.admin.app import build_admin_app
from daemon.app import Application
from daemon.core.budget import nano_of
from daemon.core.circuit import Policy
from daemon.core.credentials import BedrockCredential
from daemon.core.mapping import load_catalogue
from daemon.core.periods import day_start
from daemon.core.prices import PriceSheet
from daemon.core.record import UsageRecord
from daemon.gateway.accounts import Accounts, Drains
from daemon.gateway.admission import Admission
from daemon.gateway.bedrock import Bedrock, ModelMap, OpenKeys
from daemon.gateway.bodies import BodyReader
from daemon.gateway.circuits import Circuits
from daemon.gateway.endpoints import DataPlane
from daemon.gateway.exchange import Exchanges
from daemon.gateway.guard import Guard
from daemon.gateway.journal import Journal
from daemon.gateway.learned import Compatibility, Sessions
from daemon.gateway.leases import Leases
from daemon.gateway.ledger import Ledger
from daemon.gateway.legs import Deadlines
from daemon.gateway.plan import Plan
from daemon.gateway.probe import BedrockProbe
from daemon.gateway.routing import Follower, Routing
from daemon.gateway.spend import Budgets
from daemon.observability.tasks import Saves, spawn, stop
from daemon.price_sources import packaged_sheet, price_layers
from daemon.protocol.bedrock.request import Ceilings
from daemon.resources import data_file
from daemon.secrets_store import Secrets, data_directory, database_url
from daemon.security.access_keys import hash_key
from daemon.security.envelope import Envelope, build_envelope
from daemon.services.bedrock_keys import Probe, open_credential
from daemon.services.budgets import BudgetDisplay
from daemon.services.directory import Directory, SealedBedrockKey
from daemon.services.pricing import EPOCH, Pricing
from daemon.services.registry import Services, build_services
from daemon.services.upkeep import Upkeep
from daemon.settings import Settings, SettingsProblem
from daemon.store import migrate
from daemon.store.budgets import forget_counters
from daemon.store.engine import OUTAGES, Store
from daemon.store.epochs import note
from daemon.store.lock import DirectoryLock
from daemon.upstreams.aws import AwsSigner
from daemon.upstreams.bedrock import BedrockUpstream
from daemon.upstreams.http import HttpUpstream
from daemon.web.health import Health

log = structlog.get_logger()

_MEMORY_SHARE = 4  # request bodies together may take a quarter of the machine's memory


def new_request_id() -> str:
    """`req_` and the hex of a UUIDv7: sortable by time, unique across replicas."""
    return f"req_{uuid7().hex}"


def utc_now() -> datetime:
    return datetime.now(UTC)


class Runtime:
    """One daemon. `start` makes it ready, `app` is its ASGI application, `aclose` stops it with nothing lost.

    `reread` gives the settings as they are now, for what can be loaded again while the daemon runs: prices.
    """

    def __init__(
        self, settings: Settings, keys: Secrets, reread: Callable[[], Settings | list[SettingsProblem]] | None = None
    ) -> None:
        self._settings = settings
        self._reread = reread or (lambda: settings)
        self._keys = keys
        self._stack = AsyncExitStack()
        self._ready = False
        self._owner = secrets.token_hex(8)  # this replica, in the store
        self.app: Application
        self.services: Services
        self.ledger: Ledger

    async def start(self) -> None:
        """Lock the data directory, migrate SQLite, replay the journal, build the application.

        Raises:
            AlreadyRunning: another daemon uses the same data directory.
            SchemaOutdated: PostgreSQL's schema is not the one this version needs.
            PriceSheetError: what is configured about prices cannot be used.
        """
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise

    async def _start(self) -> None:
        settings = self._settings
        if settings.bedrock_default_model is not None:
            log.warning("PROXY_BEDROCK_DEFAULT_MODEL is deprecated and ignored: map models with proxyctl models map")
        directory = data_directory(settings)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = DirectoryLock(directory)
        lock.acquire()
        self._stack.callback(lock.release)
        url = database_url(settings)
        await asyncio.to_thread(_bring_schema, url)
        store = Store.open(url)
        self._stack.push_async_callback(store.aclose)
        pricing = self._pricing(store)
        await pricing.start()
        saves = Saves()
        budgets = self._budgets(store, saves, pricing.current)
        await _settle_what_counts(store, f"{settings.budget_scope} {settings.budget_timezone}")
        journal = Journal(directory / "journal")
        self.ledger = Ledger(store, journal, day_of=self._day_of, counts=budgets.counts)
        await self.ledger.start()
        self._stack.push_async_callback(self.ledger.aclose)
        self._stack.push_async_callback(saves.finished)
        admission = self._admission(store)
        routing = self._routing(store, saves)
        await routing.load(store)
        follow = Follower(store, admission.invalidate, routing, {EPOCH: pricing.follow})
        envelope = build_envelope(
            kms_key_id=settings.kms_key_id,
            kms_url=settings.kms_url,
            region=settings.bedrock_region,
            local_key=self._keys.local_encryption_key,
        )
        await envelope.prepare()
        guard = Guard(replicas=lambda: budgets.replicas, monotonic=time.monotonic)

        def settled(record: UsageRecord) -> None:
            budgets.learned(record)
            guard.used(record)

        accounts = partial(
            Accounts,
            sheet=lambda: pricing.sheet,
            now=utc_now,
            monotonic=time.monotonic,
            on_settled=settled,
            on_unpriced=pricing.note_unknown,
        )
        bedrock = self._bedrock(envelope, routing)
        probe = BedrockProbe(
            Directory(store),
            bedrock,
            routing,
            self.ledger,
            budgets,
            new_accounts=accounts,
            now=utc_now,
            monotonic=time.monotonic,
            new_request_id=new_request_id,
        )
        self.services = self._build_services(store, pricing, admission, follow, routing, envelope, probe, guard)
        data_plane = self._data_plane(store, admission, accounts(self.ledger), budgets, guard, bedrock, routing)
        self.app = Application(
            data_plane=data_plane,
            control_plane=build_admin_app(self.services, trusted_proxies=settings.trusted_proxies),
            health=Health(lambda: self._ready),
            new_request_id=new_request_id,
        )
        leases = Leases(store.write, budgets, owner=self._owner, now=utc_now, day_of=self._day_of)
        upkeep = Upkeep(store, zone=settings.zone, retention_days=settings.usage_retention_days, now=utc_now)
        for name, task in (("epoch poll", follow.run()), ("leases", leases.run()), ("usage upkeep", upkeep.run())):
            self._stack.push_async_callback(stop, spawn(task, name=name))
        self._ready = True

    def drain(self) -> None:
        """From now on `/readyz` says 503."""
        self._ready = False

    async def aclose(self) -> None:
        """Stop in the reverse order of the start; the ledger is flushed to the store."""
        self._ready = False
        await self._stack.aclose()

    def _pricing(self, store: Store) -> Pricing:
        return Pricing(
            store,
            packaged=packaged_sheet(),
            read_configured=lambda: price_layers(self._reread),
            now=utc_now,
        )

    def _admission(self, store: Store) -> Admission:
        settings, keys = self._settings, self._keys
        return Admission(
            Directory(store),
            hash_key=lambda raw: hash_key(raw, keys.key_hasher_secret),
            ttl=settings.access_key_cache_ttl,
            max_stale=settings.auth_max_stale,
            monotonic=time.monotonic,
            now=utc_now,
            outages=OUTAGES,
        )

    def _day_of(self, instant: datetime) -> datetime:
        return day_start(instant, self._settings.zone)

    def _budgets(self, store: Store, saves: Saves, sheet: Callable[[], PriceSheet]) -> Budgets:
        settings = self._settings
        return Budgets(
            store.write,
            saves,
            mode=settings.budget_mode,
            scope=settings.budget_scope,
            zone=settings.zone,
            owner=self._owner,
            sheet=sheet,
            now=utc_now,
            on_store_error=settings.budget_on_store_error,
            every_intent=settings.ledger_intent == "database",
            refuse_unpriced=settings.price_unknown == "refuse",
        )

    def _routing(self, store: Store, saves: Saves) -> Routing:
        settings = self._settings
        circuits = Circuits(
            store.write,
            saves,
            policy=Policy(settings.circuit_failure_threshold, settings.circuit_reset_timeout),
            owner=self._owner,
            now=utc_now,
            monotonic=time.monotonic,
            jitter=random.random,
            new_id=_new_id,
        )
        compatibility = Compatibility(store.write, saves, ttl=settings.compatibility_ttl, now=utc_now, new_id=_new_id)
        sessions = Sessions(store.write, saves, dwell=settings.sticky_seconds, now=utc_now, monotonic=time.monotonic)
        models = ModelMap(load_catalogue(data_file("models.json").read_bytes()), settings.bedrock_model_mapping, {})
        return Routing(circuits, compatibility, sessions, models)

    def _bedrock(self, envelope: Envelope, routing: Routing) -> Bedrock:
        settings = self._settings

        def new_upstream(url: str) -> HttpUpstream:
            return HttpUpstream(url, connect_timeout=settings.connect_timeout)

        async def open_key(sealed: SealedBedrockKey) -> BedrockCredential:
            return await open_credential(
                envelope, sealed.sealed_secret, access_key_id=sealed.access_key_id, bedrock_key_id=sealed.id
            )

        signer = AwsSigner(sts_url=settings.sts_url or None, now=utc_now)
        upstream = BedrockUpstream(url=settings.bedrock_url, signer=signer, new_upstream=new_upstream)
        self._stack.push_async_callback(upstream.aclose)
        return Bedrock(
            upstream,
            keys=OpenKeys(open_key, ttl=settings.bedrock_key_cache_ttl, monotonic=time.monotonic),
            models=routing.models,
            compatibility=routing.compatibility,
            sessions=routing.sessions,
            deadlines=self._deadlines(),
            ceilings=self._ceilings(),
            drains=Drains(),
        )

    def _build_services(
        self,
        store: Store,
        pricing: Pricing,
        admission: Admission,
        follow: Follower,
        routing: Routing,
        envelope: Envelope,
        probe: Probe,
        guard: Guard,
    ) -> Services:
        settings, keys = self._settings, self._keys
        schema_needed = migrate.head()
        return build_services(
            store,
            hasher_secret=keys.key_hasher_secret,
            jwt_secret=keys.jwt_secret,
            admin_username=settings.admin_username,
            admin_password_hash=keys.admin_password_hash,
            zone=settings.zone,
            budget_mode=settings.budget_mode,
            budget_scope=settings.budget_scope,
            budget_default_nano=nano_of(settings.budget_default_usd),
            now=utc_now,
            token_bytes=secrets.token_bytes,
            version=version("claude-code-proxyctl"),
            catalogue=routing.models.catalogue,
            model_environment=settings.bedrock_model_mapping,
            default_bedrock_region=settings.bedrock_region,
            envelope=envelope,
            probe_bedrock=probe,
            pricing=pricing,
            on_access_change=admission.invalidate,
            on_models_change=follow.soon,
            on_routing_change=follow.soon,
            system_facts=lambda: {
                "database": store.dialect,
                "schema_needed": schema_needed,
                "requests_in_flight": guard.in_flight,
                "plan_api_url": settings.plan_api_url,
                "plan_api_key_set": settings.plan_api_key is not None,
                "bedrock_region": settings.bedrock_region,
                "budget_scope": settings.budget_scope,
                "budget_mode": settings.budget_mode,
                "price_sheet": pricing.sheet.sheet_id,
                "prices_unknown": pricing.unknown(),
                "circuits_open": routing.circuits.open(),
                "ledger_pending": self.ledger.pending,
                "ledger_failures": self.ledger.failures,
            },
        )

    def _deadlines(self) -> Deadlines:
        settings = self._settings
        return Deadlines(settings.first_byte_timeout, settings.whole_answer_timeout, settings.idle_timeout)

    def _ceilings(self) -> Ceilings:
        return Ceilings(self._settings.claude_code_max_output_tokens, self._settings.max_thinking_tokens)

    def _data_plane(
        self,
        store: Store,
        admission: Admission,
        accounts: Accounts,
        budgets: Budgets,
        guard: Guard,
        bedrock: Bedrock,
        routing: Routing,
    ) -> DataPlane:
        settings = self._settings
        key = settings.plan_api_key
        upstream = HttpUpstream(settings.plan_api_url, connect_timeout=settings.connect_timeout)
        self._stack.push_async_callback(upstream.aclose)
        plan = Plan(
            upstream,
            api_key=key.get_secret_value() if key else None,
            deadlines=self._deadlines(),
            ceilings=self._ceilings(),
            sessions=routing.sessions,
        )
        return DataPlane(
            admission=admission,
            accounts=accounts,
            exchanges=Exchanges(accounts, budgets, routing.circuits, routing.sessions),
            sessions=routing.sessions,
            guard=guard,
            plan=plan,
            bedrock=bedrock,
            bodies=BodyReader(_memory() // _MEMORY_SHARE),
            usage=BudgetDisplay(
                store,
                enforced=settings.budget_mode != "off",
                counts=budgets.counts,
                zone=settings.zone,
                ttl=settings.budget_cache_ttl,
                now=utc_now,
                monotonic=time.monotonic,
            ).usage_document,
            now=utc_now,
            monotonic=time.monotonic,
            new_request_id=new_request_id,
        )


class SchemaOutdated(Exception):
    """The database's schema is not the one this version needs; a person has to run the migration."""


def _bring_schema(url: str) -> None:
    """SQLite is migrated on the way; PostgreSQL is shared with other replicas, so a person decides when."""
    if url.startswith("sqlite"):
        migrate.upgrade(url)
    elif migrate.pending(url):
        raise SchemaOutdated(
            f"database schema is {migrate.current(url) or 'empty'}, this version needs {migrate.head()};"
            " run: proxyctl db upgrade"
        )


def _new_id() -> UUID:
    return UUID(bytes=uuid7().bytes)


async def _settle_what_counts(store: Store, rule: str) -> None:
    """Counters of another scope or zone count something else: they are made again from the ledger when needed."""
    async with store.write() as connection:
        before = await note(connection, "budget", rule, utc_now())
        if before not in (None, rule):
            await forget_counters(connection)


def _memory() -> int:
    """Bytes of memory this process may use: the container's limit when there is one, else the machine's."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        path = Path(name)
        if path.exists() and (text := path.read_text().strip()).isdigit():
            return min(machine, int(text))
    return machine
