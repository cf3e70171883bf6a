"""The key of an installation that seals secrets: generated once on SQLite, named by the operator elsewhere."""

import json
from pathlib import Path

import pytest

from daemon.secrets_store import Secrets, load_secrets
from daemon.settings import Settings, load_settings


def _settings(tmp_path: Path, **variables: str) -> Settings:
    settings = load_settings({"PROXY_DATA_DIR": str(tmp_path), **variables})
    assert isinstance(settings, Settings), settings
    return settings


def test_on_sqlite_it_is_made_once_and_an_operators_own_comes_first(tmp_path: Path) -> None:
    first, again = (load_secrets(_settings(tmp_path), lambda _: "hash") for _ in range(2))
    assert isinstance(first, Secrets)
    assert isinstance(again, Secrets)
    assert len(first.local_encryption_key or b"") == 32
    assert first.local_encryption_key == again.local_encryption_key
    own = load_secrets(_settings(tmp_path, PROXY_LOCAL_ENCRYPTION_KEY="0f" * 32), lambda _: "hash")
    assert isinstance(own, Secrets)
    assert own.local_encryption_key == b"\x0f" * 32
    assert "local_encryption_key" not in repr(own)


def test_with_postgresql_none_is_made(tmp_path: Path) -> None:
    given = {
        "PROXY_DATABASE_URL": "postgresql+asyncpg://127.0.0.1/none",
        "PROXY_KEY_HASHER_SECRET": "hasher-0123456789abcdefghijklmnopqrstuv",
        "PROXY_JWT_SECRET": "jwt-0123456789abcdefghijklmnopqrstuvwxyz",
        "PROXY_ADMIN_PASSWORD_HASH": "0a" * 32,
    }
    keys = load_secrets(_settings(tmp_path, **given), lambda _: "hash")
    assert isinstance(keys, Secrets)
    assert keys.local_encryption_key is None


@pytest.mark.parametrize("stored", ["", "short", "0f" * 31])
def test_a_damaged_one_stops_the_start_and_is_not_quoted(tmp_path: Path, stored: str) -> None:
    load_secrets(_settings(tmp_path), lambda _: "hash")
    file = tmp_path / "secrets.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"local_encryption_key": stored}))
    problems = load_secrets(_settings(tmp_path), lambda _: "hash")
    assert isinstance(problems, list)
    assert [problem.variable for problem in problems] == ["PROXY_LOCAL_ENCRYPTION_KEY"]
    assert str(file) in problems[0].message
    assert not stored or stored not in problems[0].message
