"""Migrations: whole or not at all, one migrator at a time, the same from Alembic's own command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import op
from sqlalchemy import Connection

from daemon.store import migrate

ROOT = Path(__file__).parents[2]


@pytest.fixture
def empty_url(database_url: str) -> str:
    """A database without a schema, once for each store."""
    migrate.downgrade(database_url, "base")
    return database_url


def test_an_empty_database_is_pending_until_it_is_upgraded(empty_url: str) -> None:
    assert migrate.current(empty_url) is None
    assert migrate.pending(empty_url)
    migrate.upgrade(empty_url)
    assert migrate.current(empty_url) == migrate.head()
    assert not migrate.pending(empty_url)


def test_a_migration_that_fails_leaves_nothing_behind(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> None:
        raise RuntimeError("the view cannot be made")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="the view"):
        patch.setattr(op, "execute", fail)
        migrate.upgrade(empty_url)
    assert migrate.current(empty_url) is None
    migrate.upgrade(empty_url)
    assert migrate.drift(empty_url) == []


def test_migrators_that_start_together_all_succeed(empty_url: str) -> None:
    code = f"from daemon.store import migrate; migrate.upgrade({empty_url!r})"
    migrators = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    outcomes = [(process.communicate(timeout=60)[1], process.returncode) for process in migrators]
    assert [code for _, code in outcomes] == [0, 0, 0], outcomes
    assert migrate.drift(empty_url) == []


def test_drift_names_a_column_that_the_code_does_not_know(database_url: str) -> None:
    def add_column(connection: Connection) -> None:
        connection.exec_driver_sql("ALTER TABLE users ADD COLUMN surprise INTEGER")
        connection.commit()

    migrate.run_with_connection(database_url, add_column)
    [difference] = migrate.drift(database_url)
    assert "surprise" in difference


def test_alembic_upgrades_from_a_checkout(empty_url: str) -> None:
    alembic = [sys.executable, "-m", "alembic", "upgrade", "head"]
    done = subprocess.run(
        alembic, cwd=ROOT, env=os.environ | {"PROXY_DATABASE_URL": empty_url}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert migrate.current(empty_url) == migrate.head()


def test_the_statements_of_an_upgrade_can_be_printed(database_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    migrate.sql(database_url)
    printed = capsys.readouterr().out
    assert "CREATE TABLE token_usage" in printed
    assert "CREATE VIEW v_ledger" in printed
