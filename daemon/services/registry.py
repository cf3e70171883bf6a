"""All services of the control plane, built together."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from zoneinfo import ZoneInfo

from daemon.core.budget import Mode, Scope, counts
from daemon.core.mapping import Catalogue
from daemon.security.envelope import Envelope
from daemon.services.access_keys import AccessKeys
from daemon.services.audit import Audit
from daemon.services.bedrock_keys import BedrockKeys, Probe
from daemon.services.budgets import Budgets
from daemon.services.circuits import Circuits
from daemon.services.compatibility import Compatibility
from daemon.services.directory import Directory
from daemon.services.idempotency import Idempotency
from daemon.services.models import Models
from daemon.services.pricing import Pricing
from daemon.services.repricing import Repricer
from daemon.services.service_tokens import ServiceTokens
from daemon.services.sessions import Sessions
from daemon.services.sign_in import SignIn
from daemon.services.system import System
from daemon.services.usage import Usage
from daemon.services.usage_export import UsageExport
from daemon.services.usage_range import Ranges
from daemon.services.usage_sessions import UsageSessions
from daemon.services.users import Users
from daemon.store.engine import Store


@dataclass(frozen=True, slots=True)
class Services:
    """What the admin API is made of."""

    users: Users
    access_keys: AccessKeys
    budgets: Budgets
    bedrock_keys: BedrockKeys
    models: Models
    pricing: Pricing
    repricer: Repricer
    circuits: Circuits
    compatibility: Compatibility
    usage: Usage
    usage_export: UsageExport
    usage_sessions: UsageSessions
    service_tokens: ServiceTokens
    sessions: Sessions
    sign_in: SignIn
    audit: Audit
    system: System
    idempotency: Idempotency
    directory: Directory
    now: Callable[[], datetime]
    token_bytes: Callable[[int], bytes]


def build_services(
    store: Store,
    *,
    hasher_secret: bytes,
    jwt_secret: bytes,
    admin_username: str,
    admin_password_hash: str,
    zone: ZoneInfo,
    budget_mode: Mode,
    budget_scope: Scope,
    budget_default_nano: int | None,
    now: Callable[[], datetime],
    token_bytes: Callable[[int], bytes],
    version: str,
    catalogue: Catalogue,
    model_environment: Mapping[str, str],
    default_bedrock_region: str,
    envelope: Envelope,
    probe_bedrock: Probe,
    pricing: Pricing,
    on_access_change: Callable[[], None],
    on_models_change: Callable[[], None],
    on_routing_change: Callable[[], None],
    system_facts: Callable[[], dict[str, object]],
) -> Services:
    """Services on one store.

    `on_access_change` runs after each commit that may change who is admitted, `on_models_change` where a model goes,
    `on_routing_change` which provider is tried.
    """
    service_tokens = ServiceTokens(store, hasher_secret=hasher_secret, now=now, token_bytes=token_bytes)
    sessions = Sessions(
        store,
        service_tokens,
        jwt_secret=jwt_secret,
        username=admin_username,
        password_hash=admin_password_hash,
        now=now,
        token_bytes=token_bytes,
    )
    return Services(
        users=Users(
            store,
            now=now,
            token_bytes=token_bytes,
            on_access_change=on_access_change,
            default_budget_nano=budget_default_nano,
        ),
        access_keys=AccessKeys(
            store, hasher_secret=hasher_secret, now=now, token_bytes=token_bytes, on_access_change=on_access_change
        ),
        bedrock_keys=BedrockKeys(
            store,
            envelope=envelope,
            hasher_secret=hasher_secret,
            now=now,
            token_bytes=token_bytes,
            on_access_change=on_access_change,
            default_region=default_bedrock_region,
            probe=probe_bedrock,
        ),
        models=Models(
            store,
            now=now,
            token_bytes=token_bytes,
            catalogue=catalogue,
            environment=model_environment,
            default_region=default_bedrock_region,
            is_priced=lambda model, region: pricing.current().find("bedrock", region, model)[1],
            on_change=on_models_change,
        ),
        pricing=pricing,
        repricer=Repricer(store, sheet=lambda: pricing.sheet, zone=zone, counts=partial(counts, budget_scope), now=now),
        circuits=Circuits(store, now=now, on_change=on_routing_change),
        compatibility=Compatibility(store, now=now, on_change=on_routing_change),
        budgets=Budgets(
            store, mode=budget_mode, scope=budget_scope, zone=zone, now=now, on_access_change=on_access_change
        ),
        usage=Usage(store, Ranges(zone, now)),
        usage_export=UsageExport(store, Ranges(zone, now)),
        usage_sessions=UsageSessions(store),
        service_tokens=service_tokens,
        sessions=sessions,
        sign_in=SignIn(store, sessions, username=admin_username, password_hash=admin_password_hash, now=now),
        audit=Audit(store),
        system=System(store, version=version, now=now, facts=system_facts),
        idempotency=Idempotency(store, now=now),
        directory=Directory(store),
        now=now,
        token_bytes=token_bytes,
    )
