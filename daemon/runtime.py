"""The composition root: builds every object from settings, owns the order of start and stop."""

import asyncio
import os
import secrets
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from uuid import UUID

import orjson
import structlog
from uuid_utils import uuid7

from daemon.admin.app import build_admin_app
from daemon.app import Application
from daemon.core.mapping import load_catalogue
from daemon.core.periods import day_start, period_bounds
from daemon.core.pricing import PriceSheet, load_sheet
from daemon.gateway.admission import Admission
from daemon.gateway.bodies import BodyReader
from daemon.gateway.endpoints import DataPlane, Deadlines
from daemon.gateway.exchange import Accounts
from daemon.gateway.journal import Journal
from daemon.gateway.ledger import Ledger
from daemon.observability.tasks import spawn
from daemon.resources import data_file
from daemon.secrets_store import Secrets, data_directory, database_url
from daemon.security.access_keys import hash_key
from daemon.security.envelope import build_envelope
from daemon.services.bedrock_keys import ProbeResult
from daemon.services.directory import Directory, Principal
from daemon.services.errors import Unavailable
from daemon.services.registry import Services, build_services
from daemon.settings import Settings
from daemon.store import migrate, usage
from daemon.store.engine import OUTAGES, Store
from daemon.store.epochs import read_all
from daemon.store.lock import DirectoryLock
from daemon.upstreams.http import HttpUpstream
from daemon.web.health import Health

log = structlog.get_logger()

EPOCH_POLL_SECONDS = 1.0
_MEMORY_SHARE = 4  # request bodies together may take a quarter of the machine's memory


def new_request_id() -> str:
    """`req_` and the hex of a UUIDv7: sortable by time, unique across replicas."""
    return f"req_{uuid7().hex}"


def utc_now() -> datetime:
    return datetime.now(UTC)


class Runtime:
    """One daemon. `start` makes it ready, `app` is its ASGI application, `aclose` stops it with nothing lost."""

    def __init__(self, settings: Settings, keys: Secrets) -> None:
        self._settings = settings
        self._keys = keys
        self._stack = AsyncExitStack()
        self._ready = False
        self.app: Application
        self.services: Services
        self.ledger: Ledger

    async def start(self) -> None:
        """Lock the data directory, migrate SQLite, replay the journal, build the application.

        Raises:
            AlreadyRunning: another daemon uses the same data directory.
            SchemaOutdated: PostgreSQL's schema is not the one this version needs.
        """
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise

    async def _start(self) -> None:
        settings = self._settings
        directory = data_directory(settings)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = DirectoryLock(directory)
        lock.acquire()
        self._stack.callback(lock.release)
        url = database_url(settings)
        await asyncio.to_thread(_bring_schema, url)
        store = Store.open(url)
        self._stack.push_async_callback(store.aclose)
        sheet = _price_sheet(settings.pricing_file)
        journal = Journal(directory / "journal")
        self.ledger = Ledger(store, journal, day_of=lambda instant: day_start(instant, settings.zone))
        await self.ledger.start()
        self._stack.push_async_callback(self.ledger.aclose)
        self.services, admission = self._build_services(store, sheet)
        plan = HttpUpstream(settings.plan_api_url, connect_timeout=settings.connect_timeout)
        self._stack.push_async_callback(plan.aclose)
        self.app = Application(
            data_plane=self._data_plane(store, admission, plan, sheet),
            control_plane=build_admin_app(self.services, sheet=lambda: sheet, trusted_proxies=settings.trusted_proxies),
            health=Health(lambda: self._ready),
            new_request_id=new_request_id,
        )
        poll = spawn(_follow_epochs(store, admission.invalidate), name="epoch poll")
        self._stack.callback(poll.cancel)
        self._ready = True

    def drain(self) -> None:
        """From now on `/readyz` says 503."""
        self._ready = False

    async def aclose(self) -> None:
        """Stop in the reverse order of the start; the ledger is flushed to the store."""
        self._ready = False
        await self._stack.aclose()

    def _build_services(self, store: Store, sheet: PriceSheet) -> tuple[Services, Admission]:
        settings, keys = self._settings, self._keys
        admission = Admission(
            Directory(store),
            hash_key=lambda raw: hash_key(raw, keys.key_hasher_secret),
            ttl=settings.access_key_cache_ttl,
            max_stale=settings.auth_max_stale,
            monotonic=time.monotonic,
            now=utc_now,
            outages=OUTAGES,
        )
        services = build_services(
            store,
            hasher_secret=keys.key_hasher_secret,
            jwt_secret=keys.jwt_secret,
            admin_username=settings.admin_username,
            admin_password_hash=keys.admin_password_hash,
            zone=settings.zone,
            now=utc_now,
            token_bytes=secrets.token_bytes,
            version=version("claude-code-proxyctl"),
            catalogue=load_catalogue(data_file("models.json").read_bytes()),
            model_environment=settings.bedrock_model_mapping,
            default_bedrock_region=settings.bedrock_region,
            envelope=build_envelope(
                kms_key_id=settings.kms_key_id,
                kms_url=settings.kms_url,
                region=settings.bedrock_region,
                local_key=keys.local_encryption_key,
            ),
            probe_bedrock=_no_probe,
            is_priced=lambda model, region: _is_priced(sheet, model, region),
            on_access_change=admission.invalidate,
            on_models_change=lambda: None,
            on_routing_change=lambda: None,
            system_facts=lambda: {
                "database": store.dialect,
                "plan_api_url": settings.plan_api_url,
                "plan_api_key_set": settings.plan_api_key is not None,
                "ledger_pending": self.ledger.pending,
                "ledger_failures": self.ledger.failures,
            },
        )
        return services, admission

    def _data_plane(self, store: Store, admission: Admission, plan: HttpUpstream, sheet: PriceSheet) -> DataPlane:
        settings = self._settings

        async def oauth_usage(principal: Principal) -> bytes:
            start, end = period_bounds(utc_now(), "monthly", settings.zone)
            async with store.read() as connection:
                spent = await usage.spent(connection, user_id=principal.user_id, since=start, until=end)
            return _oauth_usage_body(spent)

        key = settings.plan_api_key
        return DataPlane(
            admission=admission,
            accounts=Accounts(self.ledger, sheet=lambda: sheet, now=utc_now, monotonic=time.monotonic),
            plan=plan,
            plan_api_key=key.get_secret_value() if key else None,
            bodies=BodyReader(_memory() // _MEMORY_SHARE),
            deadlines=Deadlines(settings.first_byte_timeout, settings.whole_answer_timeout, settings.idle_timeout),
            usage=oauth_usage,
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


async def _no_probe(_: UUID) -> ProbeResult:
    raise Unavailable("this daemon cannot try Bedrock keys yet")


def _price_sheet(override: Path | None) -> PriceSheet:
    return load_sheet(override.read_bytes() if override else data_file("models.json").read_bytes())


def _is_priced(sheet: PriceSheet, model: str, region: str) -> bool:
    """Whether the sheet states what a model costs on Bedrock, in the region or everywhere."""
    name = sheet.names.get(model, model)
    return any(("bedrock", place, name) in sheet.prices for place in (region, "global"))


async def _follow_epochs(store: Store, on_access_change: Callable[[], None]) -> None:
    """Drop cached keys when another replica changed them; while the store is away what is known stays."""
    known: int | None = None
    while True:
        try:
            async with store.read() as connection:
                epoch = (await read_all(connection)).get("access", 0)
        except OUTAGES:
            log.warning("epoch poll failed")
        else:
            if known is not None and epoch != known:
                on_access_change()
            known = epoch
        await asyncio.sleep(EPOCH_POLL_SECONDS)


def _oauth_usage_body(spent_nano: int) -> bytes:
    """What Claude Code shows under `/usage`, for a user without a budget. Amounts are cents."""
    return orjson.dumps(
        {
            "extra_usage": {
                "is_enabled": True,
                "monthly_limit": None,
                "used_credits": round(spent_nano / 10_000_000, 2),
                "utilization": None,
                "currency": "USD",
            },
            "limits": [],
        }
    )


def _memory() -> int:
    """Bytes of memory this process may use: the container's limit when there is one, else the machine's."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        path = Path(name)
        if path.exists() and (text := path.read_text().strip()).isdigit():
            return min(machine, int(text))
    return machine
