"""What can be wrong on this machine, on the way to the daemon and in what it knows, and what to do about it."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from proxyctl.claude_check import judge, machine
from proxyctl.client import clock_ahead
from proxyctl.context import Cli
from proxyctl.errors import AuthError, CliError
from proxyctl.findings import Finding, Status
from proxyctl.output import dollars
from proxyctl.resolve import find_key

_SKEW = 30.0  # seconds
_SOON = 300.0  # seconds until the token ends
_AT_ONCE = 6
_LOOK_AT_ERRORS = "proxyctl usage records --errors      proxyctl usage records --request-id …"
_MODELS = 20  # that are looked up


class Daemon:
    """A daemon that is signed in to, and what it says of itself, asked once."""

    def __init__(self, cli: Cli) -> None:
        self.cli = cli
        self.client = cli.client

    @cached_property
    def status(self) -> dict[str, Any]:
        return self.client.get("/admin/system/status")

    @property
    def facts(self) -> dict[str, Any]:
        return dict(self.status["facts"])


Check = Callable[[Daemon], Finding]


def examine(cli: Cli, deep: str | None = None) -> list[Finding]:
    """All findings, in the order of the list below. What needs a sign-in is skipped without one.

    `deep` names an access key whose Bedrock key is tried with one paid call.
    """
    first: list[Finding] = []
    for name, check in (("configuration", _configuration), ("server", _server), ("token", _token)):
        stopped = bool(first) and first[-1].status in ("failed", "skipped")
        first.append(Finding(name, "skipped", f"needs the {first[-1].name}") if stopped else check(cli))
    checks = [*CHECKS, ("bedrock", partial(_bedrock, key=deep))] if deep is not None else CHECKS
    if first[-1].status in ("failed", "skipped"):
        rest = [Finding(name, "skipped", "needs a sign-in") for name, _ in checks]
    else:
        daemon = Daemon(cli)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            rest = list(pool.map(lambda named: _guarded(named[0], named[1], daemon), checks))
    return [*first, *rest, _claude_code(cli.server if first[0].status == "ok" else None)]


def _guarded(name: str, check: Check, daemon: Daemon) -> Finding:
    try:
        return check(daemon)
    except AuthError as error:
        return Finding(name, "skipped", error.message, "a token with the scope that is named")
    except CliError as error:
        return Finding(name, "failed", error.message, error.hint)
    except KeyError as error:
        fix = "install the same version here and there: proxyctl version --daemon"
        return Finding(name, "failed", f"the daemon does not tell {error}: it is of another version", fix)


def _configuration(cli: Cli) -> Finding:
    try:
        source = cli.setting("server").source
        _ = cli.printer
    except CliError as error:
        return Finding("configuration", "failed", error.message, error.hint)
    return Finding("configuration", "ok", f"server from {source}, profile {cli.profile.value}")


def _server(cli: Cli) -> Finding:
    """DNS, TCP, TLS, HTTP, and the clock: a token and SigV4 need one that is right."""
    try:
        answer = cli.new_client(None).raw("GET", "/healthz", None)
    except CliError as error:
        proxies = [name for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY") if os.environ.get(name)]
        fix = error.hint if not proxies else f"{error.hint}      (a proxy is set: {', '.join(proxies)})"
        return Finding("server", "failed", error.message, fix)
    if answer.status_code != 200:
        fix = "is it a proxyctl daemon?  pass --server or set PROXY_SERVER"
        return Finding("server", "failed", f"/healthz answered {answer.status_code}", fix)
    ahead = clock_ahead(answer)
    if ahead is not None and abs(ahead) > _SKEW:
        fix = "set this machine's clock (NTP): sign-in and AWS signatures depend on it"
        return Finding("server", "warning", f"{cli.server} answers; this clock is {ahead:+.0f} s off", fix)
    return Finding("server", "ok", f"{cli.server} answers, clocks agree")


def _token(cli: Cli) -> Finding:
    try:
        session = cli.client.get("/admin/auth/session")
    except CliError as error:
        return Finding("token", "failed", error.message, error.hint)
    assert cli.token is not None
    who = f"{session['username']}, from {cli.token.source}"
    if session["expires_at"] is None:
        return Finding("token", "ok", f"{who}, does not expire")
    left = (datetime.fromisoformat(session["expires_at"]) - datetime.now(UTC)).total_seconds()
    if left < _SOON:
        return Finding("token", "warning", f"{who}, ends in {left:.0f} s", "proxyctl auth login")
    return Finding("token", "ok", f"{who}, until {session['expires_at']}")


def _versions(daemon: Daemon) -> Finding:
    here, there = version("claude-code-proxyctl"), daemon.status["version"]
    if here == there:
        return Finding("versions", "ok", here)
    return Finding("versions", "warning", f"proxyctl {here}, daemon {there}", "install the daemon's version")


def _database(daemon: Daemon) -> Finding:
    if not daemon.status["database_ok"]:
        return Finding("database", "failed", "the daemon cannot reach it", "look at the database, and the daemon's log")
    revision, needed = daemon.status["schema_revision"], daemon.facts["schema_needed"]
    if revision != needed:
        return Finding("database", "failed", f"schema {revision}, needed {needed}", "proxyctl db upgrade")
    return Finding("database", "ok", f"{daemon.facts['database']}, schema {revision}")


def _prices(daemon: Daemon) -> Finding:
    """Prices of what is in use: was charged without one, or was mapped here. The packaged sheet may know less."""
    mappings = daemon.client.items("/admin/model-mappings", limit=500)
    mapped = [row for row in mappings if row["effective"] and row["source"] != "packaged"]
    charged = [f"{row['model']} ({row['provider']})" for row in daemon.facts["prices_unknown"]]
    unpriced = sorted({*charged, *(row["claude_model"] for row in mapped if not row["price_known"])})
    if unpriced:
        fix = "proxyctl pricing reload --file …      until then the dearest known price is charged, and marked"
        return Finding("prices", "warning", f"no price for {', '.join(unpriced[:5])}", fix)
    return Finding("prices", "ok", f"sheet {daemon.facts['price_sheet']} has all that is in use")


def _models(daemon: Daemon) -> Finding:
    """Models of the last seven days that Bedrock could not have served."""
    seen = daemon.client.get("/admin/usage", period="week", group_by="model")["items"]
    names = [group["group"] for group in seen[:_MODELS]]
    lost = [name for name in names if not daemon.client.get("/admin/models/resolve", model=name)["mapped"]]
    if lost:
        fix = f"proxyctl models map {lost[0]} …"
        return Finding("models", "warning", f"no Bedrock model for {', '.join(lost[:5])}: no failover", fix)
    return Finding("models", "ok", f"{len(names)} seen this week, each has a Bedrock model")


def _traffic(daemon: Daemon) -> Finding:
    """Whether the providers answer, as the requests of the last hour saw it: none is made for this."""
    rows = daemon.client.get("/admin/system/stats", minutes=60)["by_provider"]
    if not rows:
        login = "the company's key" if daemon.facts["plan_api_key_set"] else "each developer's own login"
        detail = f"no request in the last hour; the plan is {daemon.facts['plan_api_url']} with {login}, not tried"
        return Finding("providers", "skipped", detail)
    told = ", ".join(f"{row['errors']} of {row['requests']} requests to {row['name']} failed" for row in rows)
    status: Status = "ok"
    if any(2 * row["errors"] >= row["requests"] for row in rows):
        status = "failed" if all(row["errors"] == row["requests"] for row in rows) else "warning"
    return Finding("providers", status, f"in the last hour {told}", None if status == "ok" else _LOOK_AT_ERRORS)


def _circuits(daemon: Daemon) -> Finding:
    open_ones = [row for row in daemon.client.items("/admin/circuits") if row["state"] == "open"]
    if open_ones:
        told = ", ".join(f"{row['provider']} ({row['last_failure']})" for row in open_ones[:3])
        return Finding("circuits", "warning", f"{len(open_ones)} open: {told}", "proxyctl circuits list")
    return Finding("circuits", "ok", "none is open")


def _ledger(daemon: Daemon) -> Finding:
    pending, failures = daemon.facts["ledger_pending"], daemon.facts["ledger_failures"]
    detail = f"{pending} records on their way, {failures} writes failed since the start"
    return Finding("ledger", "warning" if failures else "ok", detail, "the daemon's log says why" if failures else None)


def _bedrock(daemon: Daemon, *, key: str) -> Finding:
    """One small call that costs a little."""
    if daemon.cli.dry_run:
        return Finding("bedrock", "skipped", "--dry-run: no paid call is made")
    path = f"/admin/access-keys/{find_key(daemon.client, key)['id']}/bedrock-key/test"
    tested = daemon.client.post(path, {})
    cost = dollars(tested["cost_nano_usd"])
    if tested["ok"]:
        detail = f"{tested['bedrock_model']} answered in {tested['duration_ms']} ms for {cost}"
        return Finding("bedrock", "ok", detail)
    return Finding("bedrock", "failed", f"{tested['message']} ({cost})", f"proxyctl bedrock-keys set {key} …")


def _claude_code(server: str | None) -> Finding:
    """What Claude Code would do when it is started here; the worst of what is found."""
    here = machine(os.environ, Path.home(), Path.cwd())
    if not here.base:
        return Finding("claude code", "skipped", "ANTHROPIC_BASE_URL is not set here")
    order = ("failed", "warning", "skipped", "ok")
    worst = min(judge(here), key=lambda finding: order.index(finding.status))
    if worst.status != "ok":
        return replace(worst, name="claude code")
    if server is not None and here.server != server.rstrip("/"):
        return Finding("claude code", "warning", f"would use {here.server}, another gateway", "proxyctl claude check")
    return Finding("claude code", "ok", f"would use {here.server}")


CHECKS: list[tuple[str, Check]] = [
    ("versions", _versions),
    ("database", _database),
    ("prices", _prices),
    ("models", _models),
    ("providers", _traffic),
    ("circuits", _circuits),
    ("ledger", _ledger),
]
