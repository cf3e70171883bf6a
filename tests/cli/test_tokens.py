"""`proxyctl tokens` and `proxyctl audit` against a real daemon."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from daemon.core.identity import looks_like_service_token
from proxyctl.errors import UsageError
from proxyctl.timespan import expiry
from tests.cli.test_circuits import running_shell
from tests.cli.test_cli import proxyctl

NOW = datetime(2026, 3, 1, 12, 0, 0, 5, tzinfo=UTC)


async def test_the_life_of_a_token(tmp_path: Path) -> None:
    async with running_shell(tmp_path) as (shell, _):
        file = tmp_path / "token"
        scopes = ("--scope", "users:write", "--scope", "audit:read", "--expires", "90d")
        created = await shell("tokens", "create", "ci", *scopes, "--output-file", str(file))
        assert (created.code, created.out) == (0, "")
        assert file.stat().st_mode & 0o777 == 0o600
        token = file.read_text().strip()
        assert looks_like_service_token(token)
        assert token not in created.err

        again = await shell("tokens", "create", "ci", *scopes)
        assert (again.code, "proxyctl tokens revoke ci" in again.err) == (5, True)
        quiet = await shell("tokens", "create", "other", "--scope", "admin", "--expires", "never", "-q")
        assert (looks_like_service_token(quiet.out.strip()), quiet.err) == (True, "")
        listed = await shell("tokens", "list")
        assert token not in listed.out
        assert [line.split("\t")[1:4] for line in listed.out.splitlines()] == [
            ["ci", "audit:read users:write", "active"],
            ["other", "admin", "active"],
        ]

        by_token = {"PROXY_ADMIN_TOKEN": token}
        assert (await shell("users", "create", "alice", **by_token)).code == 0
        lacking = await shell("keys", "list", **by_token)
        assert (lacking.code, "lacks the scope keys:read" in lacking.err) == (4, True)
        entries = await shell("audit", "list", "--actor", "token:ci", "--since", "1h", "-o", "json", **by_token)
        [entry] = json.loads(entries.out)["items"]
        assert (entry["action"], entry["after"]["name"]) == ("user.create", "alice")
        one = await shell("audit", "list", "--object", f"user/{entry['object_id']}", "--limit", "1")
        assert one.out.split("\t")[1:4] == ["token:ci", "user.create", "user/alice"]
        assert (await shell("audit", "list", "--object", "service_token", "--all")).out.count("\n") == 2

        assert (await shell("tokens", "revoke", "ci")).code == 2  # nobody can be asked
        assert (await shell("tokens", "revoke", "ci", "--yes")).code == 0
        assert (await shell("users", "list", **by_token)).code == 4
        assert (await shell("tokens", "revoke", "ci", "--yes")).code == 3
        assert (await shell("tokens", "revoke", "ci", "--yes", "--if-missing", "skip")).code == 0
        refused = await shell("tokens", "create", "x", "--scope", "users:delete", "--expires", "1d")
        assert (refused.code, "users:delete" in refused.err) == (7, True)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--scope", "admin"], "--expires never"),
        (["--expires", "90d"], "--scope"),
        (["--scope", "admin", "--expires", "soon"], "expected 90d"),
    ],
)
async def test_scope_and_expiry_have_to_be_said(arguments: list[str], word: str) -> None:
    done = await proxyctl("tokens", "create", "ci", *arguments, PROXY_ADMIN_TOKEN="t")
    assert (done.code, word in done.err) == (2, True)


def test_an_expiry_is_a_span_an_instant_or_never() -> None:
    assert expiry("90d", NOW) == "2026-05-30T12:00:00+00:00"
    assert expiry("12h", NOW) == "2026-03-02T00:00:00+00:00"
    assert expiry("2027-01-01T00:00:00Z", NOW) == "2027-01-01T00:00:00Z"
    assert expiry("never", NOW) is None
    for wrong in ("2027-01-01T00:00:00", "90", "", "99999w9"):
        with pytest.raises(UsageError):
            expiry(wrong, NOW)
