"""The life of a CI job: no terminal, no keyring, a service token from the environment, a manifest."""

import json
from pathlib import Path

import httpx
import pytest

from daemon.core.identity import looks_like_access_key
from tests.cli.test_cli import Shell
from tests.support.daemon import running_daemon
from tests.support.simulator import running_simulator

SCOPES = ("users:write", "keys:write", "bedrock-keys:write", "budgets:write", "models:write")
MANIFEST = """\
version: proxyctl/v1
users:
  - name: ci-runners
    team: platform
    routing_strategy: bedrock_first
    monthly_budget_usd: "200.00"
    access_keys:
      - name: github-actions
        bedrock_key: {from_env: BEDROCK_API_KEY, region: us-east-1}
      - {name: gitlab}
model_mappings:
  claude-sonnet-4-5: us.anthropic.claude-sonnet-4-5-20250929-v1:0
"""
BEDROCK_API_KEY = "ABSK" + "Q" * 120


async def status_of(url: str, key: str) -> int:
    async with httpx.AsyncClient(base_url=url) as client:
        body = {"model": "claude-opus-5-5", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
        return (await client.post(f"/ak/{key}/v1/messages", json=body)).status_code


async def test_a_job_provisions_finds_drift_rotates_and_revokes(tmp_path: Path, database_url: str) -> None:
    manifest, kept = tmp_path / "manifest.yaml", tmp_path / "keys.json"
    manifest.write_text(MANIFEST)
    secrets = {
        "PROXY_KEY_HASHER_SECRET": "hasher-0123456789abcdefghijklmnopqrstuv",
        "PROXY_LOCAL_ENCRYPTION_KEY": "0f" * 32,
    }
    async with (
        running_simulator() as (_, plan),
        running_daemon(tmp_path, plan, PROXY_DATABASE_URL=database_url, **secrets) as daemon,
    ):
        admin = Shell(daemon.url, await daemon.admin_token())
        asked = [word for scope in SCOPES for word in ("--scope", scope)]
        token = await admin("tokens", "create", "ci", *asked, "--expires", "90d", "-q")
        assert token.code == 0, token.err
        job = Shell(daemon.url, token.out.strip())
        ci = {"CI": "true", "BEDROCK_API_KEY": BEDROCK_API_KEY}
        apply = ("apply", "-f", str(manifest), "--yes")

        refused = await job(*apply, **ci)
        assert (refused.code, "--keys-out" in refused.err) == (2, True)
        unset = await job(*apply, "--keys-out", str(kept), CI="true")
        assert (unset.code, "BEDROCK_API_KEY" in unset.err) == (2, True), unset.err
        rehearsed = await job(*apply, "--dry-run", "--exit-code", **ci)
        assert (rehearsed.code, kept.exists()) == (8, False)
        assert (await admin("users", "list")).out == ""  # nothing of all this changed anything

        first = await job(*apply, "--keys-out", str(kept), "-o", "json", **ci)
        assert first.code == 0, first.err
        assert {name: json.loads(first.out)[name] for name in ("created", "updated", "deleted")} == {
            "created": 5, "updated": 0, "deleted": 0,
        }  # fmt: skip
        assert kept.stat().st_mode & 0o777 == 0o600
        keys = json.loads(kept.read_text())
        assert sorted(keys) == ["ci-runners/github-actions", "ci-runners/gitlab"]
        assert all(looks_like_access_key(key) for key in keys.values())
        assert not any(key in first.out + first.err for key in keys.values())
        assert BEDROCK_API_KEY not in first.out + first.err

        second = await job(*apply, "-o", "json", **ci)
        assert (second.code, json.loads(second.out)["result"]) == (0, "unchanged"), second.err
        assert (await job("diff", "-f", str(manifest), **ci)).code == 0

        await admin("routing", "set", "ci-runners", "plan_only")
        drift = await job("diff", "-f", str(manifest), **ci)
        assert (drift.code, "routing_strategy plan_only -> bedrock_first" in drift.out) == (8, True)
        assert (await job(*apply, **ci)).code == 0
        assert (await job("diff", "-f", str(manifest), **ci)).code == 0

        export = tmp_path / "export.yaml"
        export.write_text((await admin("export")).out)
        assert (await admin("diff", "-f", str(export))).code == 0
        await admin("keys", "create", "ci-runners", "--name", "stray", "-q")
        assert (await job(*apply, **ci)).code == 0
        assert "stray" in (await admin("keys", "list", "ci-runners")).out  # what it does not name stays
        pruned = await job(*apply, "--prune", "-o", "json", **ci)
        assert (pruned.code, json.loads(pruned.out)["deleted"]) == (0, 1), pruned.err

        await admin("routing", "set", "ci-runners", "plan_only")
        old = keys["ci-runners/gitlab"]
        assert await status_of(daemon.url, old) == 200
        rotated = await job("keys", "rotate", "ci-runners/gitlab", "--grace", "0s", "-q", **ci)
        assert rotated.code == 0
        assert [await status_of(daemon.url, key) for key in (old, rotated.out.strip())] == [401, 200]
        assert (await job("keys", "revoke", "ci-runners/gitlab", "--yes", **ci)).code == 0
        assert await status_of(daemon.url, rotated.out.strip()) == 401

        assert (await job("tokens", "list", **ci)).code == 4  # not among its scopes
        assert (await admin("tokens", "revoke", "ci", "--yes")).code == 0
        assert (await job("users", "list", **ci)).code == 4
        audited = json.loads((await admin("audit", "list", "--actor", "token:ci", "-o", "json")).out)["items"]
        assert {"user.create", "access_key.create"} <= {entry["action"] for entry in audited}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("version: proxyctl/v2\n", ["version"]),
        ("users: [{name: a, routing_stratgy: x}]\nversion: proxyctl/v1\n", ["routing_stratgy", "routing_strategy"]),
        ("version: proxyctl/v1\nusers:\n  - {name: a, monthly_budget_usd: 1e9}\n", ["monthly_budget_usd"]),
        ("version: proxyctl/v1\nversion: proxyctl/v1\n", ["version", "2"]),
        ("version: proxyctl/v1\nusers: [{name: a}, {name: a}]\n", ["a"]),
        ("version: proxyctl/v1\nusers: [{name: 7}, {team: x}]\n", ["users[0].name", "users[1].name"]),
        ("[", ["manifest.yaml"]),
        ("", ["manifest.yaml"]),
    ],
)
async def test_a_manifest_that_is_wrong_is_refused_with_the_place(tmp_path: Path, text: str, words: list[str]) -> None:
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(text)
    nowhere = Shell("http://127.0.0.1:9", "t")
    done = await nowhere("apply", "-f", str(manifest), "--yes")
    assert (done.code, done.out) == (2, ""), done.err
    assert [word for word in words if word not in done.err] == []
