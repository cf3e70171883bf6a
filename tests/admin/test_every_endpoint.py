"""A day of an operator: every endpoint of the admin API once, over HTTP, against a real daemon, on both stores."""

import re
from pathlib import Path
from typing import Any

import httpx

from daemon.admin.app import declared_routes
from tests.support.daemon import ADMIN_PASSWORD, BEDROCK_API_KEY, RunningDaemon, daemon_between_simulators
from tests.support.rows import put_circuit, put_learned

PRICES = {
    "plan": {
        "global": {
            "claude-opus-5-5": {
                "input_price_per_million": "4.50",
                "output_price_per_million": "22.50",
                "cache_write_price_per_million": "5.625",
                "cache_read_price_per_million": "0.45",
            }
        }
    }
}
ASKED = {
    "model": "claude-opus-5-5",
    "max_tokens": 50,
    "messages": [{"role": "user", "content": "hi"}],
}


class Calls:
    """Makes calls, expects their status, and remembers which operations they were."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.made: set[str] = set()
        self._routes = [(method, route) for route in declared_routes() for method in route.methods or ()]

    async def __call__(self, method: str, path: str, status: int = 200, **options: Any) -> Any:
        answer = await self.client.request(method, path, **options)
        assert answer.status_code == status, f"{method} {path}: {answer.status_code} {answer.text}"
        bare = path.partition("?")[0]
        # The path that is written out in full goes before one with a parameter, as it does in the router.
        found = [route.path for known, route in self._routes if known == method and route.path_regex.match(bare)]
        self.made.add(f"{method} {min(found, key=lambda known: known.count('{'))}")
        return answer.json() if answer.headers.get("content-type") == "application/json" else answer.text


async def test_every_endpoint_answers(tmp_path: Path, database_url: str) -> None:
    async with (
        daemon_between_simulators(tmp_path, database_url) as (daemon, _),
        httpx.AsyncClient(base_url=daemon.url, timeout=20) as client,
    ):
        call = Calls(client)
        await _sign_in(call)
        user, key = await _access(call)
        await _ask(client, daemon, key["access_key"])
        await _routing(call, daemon, user, key)
        await _money(call, user)
        await _usage(call)
        await _system(call)
        assert (await call("DELETE", f"/admin/access-keys/{key['id']}"))["status"] == "revoked"
        await call("DELETE", f"/admin/users/{user['id']}", 204)
        await call("DELETE", "/admin/auth/session", 204)
    declared = {f"{method} {route.path}" for route in declared_routes() for method in route.methods or ()}
    assert call.made == declared


async def _sign_in(call: Calls) -> None:
    origin = {"origin": str(call.client.base_url).rstrip("/")}
    await call("POST", "/admin/auth/session", headers=origin, auth=("admin", ADMIN_PASSWORD))
    call.client.cookies.clear()
    signed_in = await call("POST", "/admin/auth/login", auth=("admin", ADMIN_PASSWORD))
    call.client.headers["authorization"] = f"Bearer {signed_in['access_token']}"
    assert (await call("GET", "/admin/auth/session"))["username"] == "admin"


async def _access(call: Calls) -> tuple[dict[str, Any], dict[str, Any]]:
    user = await call("POST", "/admin/users", 201, json={"name": "alice", "team": "platform"})
    assert (await call("GET", "/admin/users"))["items"][0]["id"] == user["id"]
    assert (await call("GET", f"/admin/users/{user['id']}"))["name"] == "alice"
    changed = await call("PATCH", f"/admin/users/{user['id']}", json={"description": "the first"})
    assert changed["version"] == 2
    key = await call("POST", f"/admin/users/{user['id']}/access-keys", 201, json={"name": "laptop"})
    assert [row["name"] for row in (await call("GET", f"/admin/users/{user['id']}/access-keys"))["items"]] == ["laptop"]
    assert (await call("GET", "/admin/access-keys"))["items"][0]["key_prefix"] == key["key_prefix"]
    path = f"/admin/access-keys/{key['id']}"
    assert (await call("PATCH", path, json={"limit_concurrent_requests": 8}))["limit_concurrent_requests"] == 8
    rotated = await call("POST", f"{path}/rotate", json={"grace_seconds": 0})
    assert rotated["access_key"] != key["access_key"]
    assert (await call("GET", path))["status"] == "active"
    await call("POST", f"{path}/bedrock-key", 201, json=BEDROCK_API_KEY)
    assert (await call("GET", f"{path}/bedrock-key"))["region"] == "us-east-1"
    assert (await call("POST", f"{path}/bedrock-key/test"))["ok"]
    return user, rotated


async def _ask(client: httpx.AsyncClient, daemon: RunningDaemon, access_key: str) -> None:
    headers = {"authorization": "", "x-proxy-key": access_key, "x-claude-code-session-id": "s-1"}
    answer = await client.post("/v1/messages", headers=headers, json=ASKED)
    assert answer.status_code == 200, answer.text
    await daemon.runtime.ledger.flush()


async def _routing(call: Calls, daemon: RunningDaemon, user: dict[str, Any], key: dict[str, Any]) -> None:
    path = f"/admin/users/{user['id']}/routing-strategy"
    assert (await call("PUT", path, json={"routing_strategy": "bedrock_only"}))["routing_strategy"] == "bedrock_only"
    wanted = {"claude_model": "claude-opus-5-5", "bedrock_model": "us.anthropic.claude-opus-5-5"}
    mapping = await call("POST", "/admin/model-mappings", 201, json=wanted)
    target = {"bedrock_model": "eu.anthropic.claude-opus-5-5"}
    await call("PUT", f"/admin/model-mappings/{mapping['id']}", json=target)
    assert (await call("GET", "/admin/model-mappings?limit=500"))["items"]
    resolved = await call("GET", "/admin/models/resolve?model=claude-opus-5-5")
    assert resolved["bedrock_model"] == target["bedrock_model"]
    await call("DELETE", f"/admin/model-mappings/{mapping['id']}", 204)
    circuit = await put_circuit(daemon, key["id"])
    assert [row["id"] for row in (await call("GET", "/admin/circuits"))["items"]] == [circuit]
    await call("POST", f"/admin/circuits/{circuit}/reset", 204)
    learned = await put_learned(daemon)
    assert [row["id"] for row in (await call("GET", "/admin/compatibility"))["items"]] == [learned]
    await call("DELETE", f"/admin/compatibility/{learned}", 204)
    assert (await call("DELETE", "/admin/compatibility"))["forgotten"] == 0
    await call("DELETE", f"/admin/access-keys/{key['id']}/bedrock-key", 204)


async def _money(call: Calls, user: dict[str, Any]) -> None:
    path = f"/admin/users/{user['id']}/budget"
    assert (await call("PUT", path, json={"budget_usd": "200"}))["budget_usd"] == "200.000000000"
    assert (await call("GET", path))["period"] == "monthly"
    assert (await call("GET", "/admin/budgets"))["items"][0]["user_id"] == user["id"]
    assert (await call("GET", "/api/pricing/models"))["items"]
    assert (await call("POST", "/api/pricing/reload", json={"sheet": PRICES}))["changed"]
    month = {"since": "2026-01-01T00:00:00Z", "until": "2126-01-01T00:00:00Z", "dry_run": True}
    assert (await call("POST", "/admin/pricing/reprice", json=month))["rows"] >= 1


async def _usage(call: Calls) -> None:
    assert (await call("GET", "/admin/usage?period=month&group_by=user"))["totals"]["requests"] >= 1
    assert (await call("GET", "/admin/usage/top-users?period=month"))["items"][0]["name"] == "alice"
    assert (await call("GET", "/admin/usage/cache?period=day"))["items"]
    assert (await call("GET", "/admin/usage/records"))["items"]
    assert (await call("GET", "/admin/usage/export?format=jsonl")).strip()
    assert (await call("GET", "/admin/usage/sessions/s-1"))["root"]["requests"]


async def _system(call: Calls) -> None:
    assert (await call("GET", "/admin/system/status"))["database_ok"]
    assert (await call("GET", "/admin/system/stats"))["total"]["requests"] >= 1
    token = await call("POST", "/admin/tokens", 201, json={"name": "ci", "scopes": ["users:read"], "expires_at": None})
    assert token["token"].startswith("pt_")
    assert (await call("GET", "/admin/tokens"))["items"][0]["name"] == "ci"
    assert (await call("DELETE", f"/admin/tokens/{token['id']}"))["status"] == "revoked"
    assert (await call("GET", "/openapi.json"))["openapi"].startswith("3.")
    assert re.search("<html", await call("GET", "/docs"), re.IGNORECASE)
    assert {row["action"] for row in (await call("GET", "/admin/audit"))["items"]} >= {"user.create"}
