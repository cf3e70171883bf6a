"""`proxyctl` as a process, against a real daemon: what it prints, where, and how it exits."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from daemon.core.identity import looks_like_access_key
from daemon.store import migrate
from proxyctl.reveal import Emit, rendered
from tests.support.daemon import ADMIN_PASSWORD, running_daemon
from tests.support.simulator import running_simulator


@dataclass
class Done:
    code: int
    out: str
    err: str


async def proxyctl(*arguments: str, stdin: str = "", **variables: str) -> Done:
    """Run the command line without a terminal and without a keyring."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",
        **{name: value for name, value in os.environ.items() if name.startswith("COVERAGE")},
        **variables,
    }
    command = [sys.executable, "-m", "proxyctl", *arguments]
    done = await asyncio.to_thread(
        subprocess.run, command, input=stdin, env=environment, capture_output=True, text=True, timeout=60
    )
    return Done(done.returncode, done.stdout, done.stderr)


@dataclass
class Shell:
    """A daemon and a token for it."""

    url: str
    token: str

    async def __call__(self, *arguments: str, stdin: str = "", **variables: str) -> Done:
        return await proxyctl(
            *arguments, stdin=stdin, **({"PROXY_SERVER": self.url, "PROXY_ADMIN_TOKEN": self.token} | variables)
        )


@pytest.fixture
async def shell(tmp_path: Path) -> AsyncIterator[Shell]:
    async with running_simulator() as (_, plan), running_daemon(tmp_path, plan) as daemon:
        yield Shell(daemon.url, await daemon.admin_token())


async def test_the_life_of_a_user_and_a_key(shell: Shell, tmp_path: Path) -> None:
    created = await shell("users", "create", "alice", "--team", "platform", "-o", "json")
    assert (created.code, json.loads(created.out)["result"]) == (0, "created")

    again = await shell("users", "create", "alice")
    assert (again.code, again.out) == (5, "")
    assert "already" in again.err
    assert "--if-exists skip" in again.err

    skipped = await shell("users", "create", "alice", "--if-exists", "skip", "-o", "json")
    assert (skipped.code, json.loads(skipped.out)["result"]) == (0, "unchanged")
    updated = await shell("users", "create", "alice", "--team", "core", "--if-exists", "update", "-o", "json")
    assert json.loads(updated.out)["result"] == "updated"

    piped = await shell("users", "list")
    assert piped.out.split("\t")[:4] == ["alice", "core", "plan_first", "yes"]
    assert (await shell("users", "list", "-o", "csv")).out.startswith(
        "name,team,strategy,active,created,id\nalice,core,"
    )
    assert "name: alice" in (await shell("users", "list", "-o", "yaml")).out
    assert (await shell("users", "list", "--query", "items[].name")).out == '[\n  "alice"\n]\n'

    key = await shell("keys", "create", "alice", "--name", "laptop")
    assert looks_like_access_key(key.out.strip())
    assert "shown once" in key.err
    assert (await shell("keys", "create", "alice", "--name", "laptop")).code == 5
    file = tmp_path / "key.env"
    rotated = await shell("keys", "create", "alice", "--name", "laptop", "--if-exists", "rotate",
                          "--output-file", str(file), "--emit", "env")  # fmt: skip
    assert (rotated.code, rotated.out) == (0, "")
    assert f"export ANTHROPIC_BASE_URL={shell.url}\nexport ANTHROPIC_AUTH_TOKEN=ak_" in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    refused = await shell("keys", "rotate", "alice/laptop", "--output-file", str(file))
    assert (refused.code, "nothing was created" in refused.err) == (1, True)
    settings = await shell("keys", "rotate", "alice/laptop", "--grace", "0s", "--emit", "claude-settings")
    assert json.loads(settings.out)["env"]["ANTHROPIC_BASE_URL"] == shell.url
    assert looks_like_access_key(json.loads(settings.out)["env"]["ANTHROPIC_AUTH_TOKEN"])

    listed = await shell("keys", "list", "alice")
    assert listed.out.split("\t")[1:4] == ["alice", "laptop", "active"]
    assert not any(looks_like_access_key(word) for word in listed.out.split())

    unsure = await shell("keys", "revoke", "laptop")
    assert (unsure.code, "--yes" in unsure.err) == (2, True)
    assert (await shell("--yes", "keys", "revoke", "laptop")).code == 0
    assert (await shell("keys", "revoke", "laptop", "--yes")).code == 3
    assert (await shell("keys", "revoke", "laptop", "--yes", "--if-missing", "skip")).code == 0
    assert (await shell("users", "delete", "alice", "--yes")).code == 0
    assert (await shell("users", "get", "alice")).code == 3


async def test_usage_is_shown_in_every_form(shell: Shell) -> None:
    await shell("users", "create", "alice")
    key = (await shell("keys", "create", "alice", "-q")).out.strip()
    body = json.dumps({"model": "claude-opus-5-5", "messages": []})
    for _ in range(3):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c",
            "import sys, urllib.request as u;"
            "u.urlopen(u.Request(sys.argv[1], sys.argv[2].encode(), {'content-type': 'application/json'})).read()",
            f"{shell.url}/ak/{key}/v1/messages", body,
        )  # fmt: skip
        assert await process.wait() == 0
    async with asyncio.timeout(10):
        while len((records := await shell("usage", "records", "-o", "json")).out) < 200:
            await asyncio.sleep(0.1)
        while len(json.loads(records.out)["items"]) < 3:
            records = await shell("usage", "records", "-o", "json")
    first = json.loads(records.out)["items"][0]
    assert (await shell("usage", "records", "-o", "name")).out.splitlines()[0] == first["request_id"]
    one = await shell("usage", "records", "--request-id", first["request_id"])
    assert (one.out.count("\n"), "1 plan messages 200 ok " in one.err) == (1, True)
    by_user = await shell("usage", "summary", "--by", "user")
    assert by_user.out.split("\t")[:2] == ["alice", "3"]
    assert "requests" in (await shell("usage", "summary")).out
    assert (await shell("usage", "top", "-n", "1")).out.startswith("alice\t3\t")
    assert (await shell("usage", "summary", "--user", "nobody")).code == 3
    assert (await shell("usage", "summary", "--since", "yesterday")).code == 7


async def test_signing_in_and_who_one_is(shell: Shell) -> None:
    token = await shell(
        "auth", "login", "--print-token", "--password-file", "-", stdin=ADMIN_PASSWORD + "\n", PROXY_ADMIN_TOKEN=""
    )
    assert token.code == 0
    who = await shell("auth", "status", "-o", "json", PROXY_ADMIN_TOKEN=token.out.strip())
    assert {"server": shell.url, "username": "admin", "source": "PROXY_ADMIN_TOKEN"}.items() <= json.loads(
        who.out
    ).items()
    assert (await shell("auth", "token")).out == shell.token + "\n"

    wrong = await shell("auth", "login", "--password-file", "-", stdin="wrong\n")
    assert (wrong.code, wrong.out) == (4, "")
    nobody = await shell("auth", "status", PROXY_ADMIN_TOKEN="")
    assert (nobody.code, "proxyctl auth login" in nobody.err) == (4, True)
    unkept = await shell("auth", "login", "--password-file", "-", stdin=ADMIN_PASSWORD + "\n", PROXY_ADMIN_TOKEN="")
    assert (unkept.code, "was not stored" in unkept.err) == (4, True)
    forged = await shell("users", "list", PROXY_ADMIN_TOKEN="eyJhbGciOiJub25lIn0.e30.")
    assert forged.code == 4


async def test_a_token_file_that_others_can_read_is_refused(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(shell.token + "\n")
    file.chmod(0o644)
    refused = await shell("--token-file", str(file), "users", "list", PROXY_ADMIN_TOKEN="")
    assert (refused.code, "chmod 600" in refused.err) == (2, True)
    file.chmod(0o600)
    assert (await shell("users", "list", "--token-file", str(file), PROXY_ADMIN_TOKEN="")).code == 0


async def test_status_is_one_screen(shell: Shell) -> None:
    status = await shell("status")
    assert status.code == 0
    for word in ("daemon", "version", "database", "plan", "bedrock", "this month"):
        assert word in status.out


async def test_an_error_for_a_program_is_one_object_on_stderr(shell: Shell) -> None:
    missing = await shell("users", "get", "nobody", "-o", "json")
    error = json.loads(missing.err)["error"]
    assert (missing.code, missing.out) == (3, "")
    assert (error["type"], error["exit_code"]) == ("not_found", 3)


@pytest.mark.parametrize(
    ("arguments", "variables", "code", "word"),
    [
        (["users", "list"], {"PROXY_SERVER": "http://127.0.0.1:9", "PROXY_ADMIN_TOKEN": "x"}, 6, "proxyctl serve"),
        (["users", "list"], {"PROXY_SERVER": "http://example.test", "PROXY_ADMIN_TOKEN": "x"}, 2, "plain HTTP"),
        (["users", "list"], {"PROXY_SERVER": "localhost:8000", "PROXY_ADMIN_TOKEN": "x"}, 2, "expected http"),
        (["users", "list", "-o", "xml"], {"PROXY_ADMIN_TOKEN": "x"}, 2, "expected table"),
        (["users", "list"], {"PROXY_TIMEOUT": "soon", "PROXY_ADMIN_TOKEN": "x"}, 2, "PROXY_TIMEOUT"),
        (["uesrs"], {}, 2, "users"),
        (["users", "list", "--token", "x"], {}, 2, "--token"),
        (["help", "nothing"], {}, 2, "environment"),
        (["serve"], {"PROXY_DATABSE_URL": "x"}, 2, "did you mean PROXY_DATABASE_URL"),
        (["daemon", "check"], {"PROXY_DATABASE_URL": "postgresql+asyncpg://u:p@127.0.0.1/x"}, 2, "PROXY_JWT_SECRET"),
        (["auth", "login"], {}, 2, "--password-file"),
    ],
)
async def test_what_cannot_be_done_is_said_with_a_next_step(
    arguments: list[str], variables: dict[str, str], code: int, word: str
) -> None:
    done = await proxyctl(*arguments, **variables)
    assert (done.code, done.out) == (code, "")
    assert word in done.err
    assert "Traceback" not in done.err


async def test_init_writes_secrets_once(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    done = await proxyctl("init", str(file))
    assert done.code == 0
    assert file.stat().st_mode & 0o777 == 0o600
    before = file.read_text()
    assert done.out.strip() not in before
    assert re.search(r"^PROXY_ADMIN_PASSWORD_HASH='\$argon2id\$[^']+'$", before, re.MULTILINE)
    again = await proxyctl("init", str(file))
    assert (again.code, file.read_text()) == (2, before)
    checked = await proxyctl("daemon", "check", "--env-file", str(file), PROXY_DATA_DIR=str(tmp_path / "data"))
    assert (checked.code, "ok" in checked.err) == (0, True)
    assert "argon2id$" not in checked.out + checked.err


async def test_the_schema_is_brought_up_and_down(tmp_path: Path) -> None:
    data = {"PROXY_DATA_DIR": str(tmp_path)}
    assert (await proxyctl("db", "check", **data)).code == 8
    assert (await proxyctl("db", "upgrade", **data)).code == 0
    assert (await proxyctl("db", "check", **data)).code == 0
    assert (await proxyctl("db", "current", **data)).out == f"{migrate.head()}\n"
    assert (await proxyctl("db", "downgrade", "base", **data)).code == 2
    assert (await proxyctl("db", "downgrade", "base", "--yes", **data)).code == 0
    assert "CREATE TABLE users" in (await proxyctl("db", "upgrade", "--sql", **data)).out


async def test_the_openapi_document_and_a_password_hash_can_be_had_offline() -> None:
    document = json.loads((await proxyctl("daemon", "openapi")).out)
    assert "/admin/users/{user_id}/access-keys" in document["paths"]
    assert (await proxyctl("daemon", "hash-password", stdin="long enough\n")).out.startswith("$argon2id$")
    assert (await proxyctl("daemon", "hash-password", stdin="short\n")).code == 2


@pytest.mark.parametrize("emit", [Emit.ENV, Emit.CLAUDE_SETTINGS])
def test_a_developer_who_needs_a_login_of_his_own_gets_the_key_in_the_url(emit: Emit) -> None:
    text = rendered("ak_x", "https://proxy.example/", emit, own_login=True)
    assert "https://proxy.example/ak/ak_x" in text
    assert "AUTH_TOKEN" not in text


async def test_the_demo_shows_a_request_and_its_cost() -> None:
    done = await proxyctl("demo", "--once", HOME=os.environ.get("HOME", "/"))
    assert done.code == 0
    assert "Simulated answer" in done.out
    assert "On the books: claude-opus-5-5 via plan" in done.err
    assert "export" not in done.err  # what is gone is not pointed at


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['proxyctl', '--help']\n"
        "from proxyctl.main import run\n"
        "try: run()\n"
        "except SystemExit: pass\n"
        "heavy = {'fastapi', 'sqlalchemy', 'boto3', 'keyring', 'httpx', 'rich.table'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Commands:" in done.stdout


@pytest.mark.parametrize(
    "variables",
    [
        {"LC_ALL": "C"},
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii"},
        {"TERM": "dumb", "COLUMNS": "20", "NO_COLOR": "1"},
    ],
    ids=lambda variables: " ".join(variables),
)
async def test_names_are_readable_whatever_the_locale(shell: Shell, variables: dict[str, str]) -> None:
    assert (await shell("users", "create", "müller", "--team", "☃", **variables)).code == 0
    listed = await shell("users", "list", **variables)
    assert listed.out.split("\t")[:2] == ["müller", "☃"]
    document = await shell("users", "list", "-o", "json", **variables)
    assert json.loads(document.out)["items"][0]["name"] == "müller"
    assert "müller" in (await shell("users", "create", "müller", **variables)).err


async def test_a_name_that_is_no_text_is_refused(shell: Shell) -> None:
    done = await shell("users", "create", b"\xff\xfe".decode(errors="surrogateescape"))
    assert (done.code, done.out) == (2, "")
    assert "not UTF-8" in done.err
