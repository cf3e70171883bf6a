"""What can be wrong between this machine, the daemon and its providers, and what to do about it."""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from proxyctl.claude_check import judge, machine
from proxyctl.context import Cli
from proxyctl.errors import AuthError, CliError
from proxyctl.findings import Finding

_SKEW = 30.0  # seconds
_SOON = 300.0  # seconds until the token ends
_AT_ONCE = 6
_MODELS = 20  # that are looked up


Check = Callable[[Cli], Finding]


def examine(cli: Cli) -> list[Finding]:
    """All findings, in the order of the list below. What needs a sign-in is skipped without one."""
    first: list[Finding] = []
    for name, check in (("configuration", _configuration), ("server", _server), ("token", _token)):
        stopped = bool(first) and first[-1].status in ("failed", "skipped")
        first.append(Finding(name, "skipped", f"needs the {first[-1].name}") if stopped else check(cli))
    if first[-1].status in ("failed", "skipped"):
        rest = [Finding(name, "skipped", "needs a sign-in") for name, _ in CHECKS]
    else:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            rest = list(pool.map(lambda check: _guarded(check[0], check[1], cli), CHECKS))
    return [*first, *rest, _claude_code()]


def _guarded(name: str, check: Check, cli: Cli) -> Finding:
    try:
        return check(cli)
    except AuthError as error:
        return Finding(name, "skipped", error.message, "a token with the scope that is named")
    except CliError as error:
        return Finding(name, "failed", error.message, error.hint)


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
    ahead = _ahead(answer.headers)
    if ahead is not None and abs(ahead) > _SKEW:
        fix = "set this machine's clock (NTP): sign-in and AWS signatures depend on it"
        return Finding("server", "warning", f"{cli.server} answers; this clock is {ahead:+.0f} s off", fix)
    return Finding("server", "ok", f"{cli.server} answers, clocks agree")


def _ahead(headers: Mapping[str, str]) -> float | None:
    try:
        return (datetime.now(UTC) - parsedate_to_datetime(headers["date"]).astimezone(UTC)).total_seconds()
    except (KeyError, ValueError):
        return None


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


def _versions(cli: Cli) -> Finding:
    here, there = version("claude-code-proxyctl"), _status(cli)["version"]
    if here == there:
        return Finding("versions", "ok", here)
    return Finding("versions", "warning", f"proxyctl {here}, daemon {there}", "install the daemon's version")


def _database(cli: Cli) -> Finding:
    status = _status(cli)
    if not status["database_ok"]:
        return Finding("database", "failed", "the daemon cannot reach it", "look at the database, and the daemon's log")
    revision, needed = status["schema_revision"], status["facts"].get("schema_needed")
    if revision != needed:
        return Finding("database", "failed", f"schema {revision}, needed {needed}", "proxyctl db upgrade")
    return Finding("database", "ok", f"{status['facts']['database']}, schema {revision}")


def _prices(cli: Cli) -> Finding:
    """Prices of what is in use: was charged without one, or was mapped here. The packaged sheet may know less."""
    facts = _status(cli)["facts"]
    mappings = cli.client.items("/admin/model-mappings", limit=500)
    mapped = [row for row in mappings if row["effective"] and row["source"] != "packaged"]
    charged = [f"{row['model']} ({row['provider']})" for row in facts["prices_unknown"]]
    unpriced = sorted({*charged, *(row["claude_model"] for row in mapped if not row["price_known"])})
    if unpriced:
        fix = "proxyctl pricing reload --file …      until then the dearest known price is charged, and marked"
        return Finding("prices", "warning", f"no price for {', '.join(unpriced[:5])}", fix)
    return Finding("prices", "ok", f"sheet {facts['price_sheet']} has all that is in use")


def _models(cli: Cli) -> Finding:
    """Models of the last seven days that Bedrock could not have served."""
    seen = cli.client.get("/admin/usage", period="week", group_by="model")["items"]
    names = [group["group"] for group in seen[:_MODELS]]
    lost = [name for name in names if not cli.client.get("/admin/models/resolve", model=name)["mapped"]]
    if lost:
        fix = f"proxyctl models map {lost[0]} …"
        return Finding("models", "warning", f"no Bedrock model for {', '.join(lost[:5])}: no failover", fix)
    return Finding("models", "ok", f"{len(names)} seen this week, each has a Bedrock model")


def _plan(cli: Cli) -> Finding:
    facts = _status(cli)["facts"]
    if facts["plan_api_key_set"]:
        return Finding("plan", "ok", f"{facts['plan_api_url']} with the company's key")
    fix = "PROXY_PLAN_API_KEY, unless developers use their own Claude login"
    return Finding("plan", "ok", f"{facts['plan_api_url']} with each developer's own login", fix)


def _circuits(cli: Cli) -> Finding:
    open_ones = [row for row in cli.client.items("/admin/circuits") if row["state"] == "open"]
    if open_ones:
        told = ", ".join(f"{row['provider']} ({row['last_failure']})" for row in open_ones[:3])
        return Finding("circuits", "warning", f"{len(open_ones)} open: {told}", "proxyctl circuits list")
    return Finding("circuits", "ok", "none is open")


def _ledger(cli: Cli) -> Finding:
    facts = _status(cli)["facts"]
    pending, failures = facts["ledger_pending"], facts["ledger_failures"]
    detail = f"{pending} records on their way, {failures} writes failed since the start"
    return Finding("ledger", "warning" if failures else "ok", detail, "the daemon's log says why" if failures else None)


def _status(cli: Cli) -> dict[str, Any]:
    return cli.client.get("/admin/system/status")


def _claude_code() -> Finding:
    """What Claude Code would do when it is started here; the worst of what is found."""
    here = machine(os.environ, Path.home(), Path.cwd())
    if not here.base:
        return Finding("claude code", "skipped", "ANTHROPIC_BASE_URL is not set here")
    order = ("failed", "warning", "skipped", "ok")
    worst = min(judge(here), key=lambda finding: order.index(finding.status))
    if worst.status == "ok":
        return Finding("claude code", "ok", f"would use {here.base.partition('/ak/')[0]}")
    return replace(worst, name="claude code")


CHECKS: list[tuple[str, Check]] = [
    ("versions", _versions),
    ("database", _database),
    ("prices", _prices),
    ("models", _models),
    ("plan", _plan),
    ("circuits", _circuits),
    ("ledger", _ledger),
]
