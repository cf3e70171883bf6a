"""`proxyctl bedrock-keys` as a process, against a real daemon: secrets go in by the right door and never come out."""

import asyncio
import json
import signal
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from daemon.security.envelope import kms_client
from tests.cli.test_cli import Shell, proxyctl
from tests.support.daemon import BEDROCK_API_KEY, running_daemon
from tests.support.moto import CREDENTIALS, REGION, moto_process
from tests.support.simulator import running_bedrock, running_simulator

SECRET = "ABSKc2VjcmV0LW9mLXRoaXMtdGVzdA=="
IAM_ID, IAM_SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
ROLE = "arn:aws:iam::123456789012:role/bedrock"
SET = ("bedrock-keys", "set", "alice/laptop")


@pytest.fixture
async def shell(tmp_path: Path) -> AsyncIterator[Shell]:
    async with running_simulator() as (_, plan), running_daemon(tmp_path, plan) as daemon:
        await daemon.create_key()
        yield Shell(daemon.url, await daemon.admin_token())


async def test_the_life_of_a_bedrock_key(shell: Shell, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    missing = await shell("bedrock-keys", "status", "alice/laptop")
    assert (missing.code, "has no Bedrock key" in missing.err) == (3, True)

    piped = await shell(*SET, "--from-file", "-", "--region", "us-east-1", "-o", "json", stdin=SECRET + "\n")
    assert piped.code == 0, piped.err
    shown = json.loads(piped.out)
    assert (shown["auth"], shown["region"], shown["sealed_by"]) == ("api_key", "us-east-1", "local")

    file = tmp_path / "key"
    file.write_text(SECRET + "\n")
    file.chmod(0o600)
    from_file = await shell(*SET, "--from-file", str(file), "--route", "invoke", "--profile-prefix", "us", "-o", "json")
    again = json.loads(from_file.out)
    assert (again["fingerprint"], again["route"], again["profile"]) == (shown["fingerprint"], "invoke", "us")

    iam = await shell(
        *SET, "--iam", "--access-key-id", IAM_ID, "--from-env", "THE_SECRET", "-o", "json", THE_SECRET=IAM_SECRET
    )
    assert json.loads(iam.out)["key_id_hint"] == "MPLE"
    role = await shell(*SET, "--assume-role", ROLE, "--external-id-from-env", "X", "-o", "json", X="ours-42")
    assert json.loads(role.out)["role_arn"] == ROLE
    ambient = await shell(*SET, "--ambient")
    assert (ambient.code, ambient.out, "ambient in ap-northeast-2" in ambient.err) == (0, "", True)
    status = await shell("bedrock-keys", "status", "laptop")
    assert "auth            ambient" in status.out

    unsure = await shell("bedrock-keys", "remove", "laptop")
    assert (unsure.code, "--yes" in unsure.err) == (2, True)
    assert (await shell("bedrock-keys", "remove", "laptop", "--yes")).code == 0
    assert (await shell("bedrock-keys", "remove", "laptop", "--yes")).code == 3
    assert (await shell("bedrock-keys", "remove", "laptop", "--yes", "--if-missing", "skip")).code == 0

    printed = capfd.readouterr()
    said = [done.out + done.err for done in (piped, from_file, iam, role, ambient, status)]
    for secret in (SECRET, IAM_SECRET, "ours-42"):
        assert secret not in "".join(said) + printed.out + printed.err
    _nowhere_in_the_store(tmp_path, SECRET, IAM_SECRET, "ours-42")


def _nowhere_in_the_store(tmp_path: Path, *secrets: str) -> None:
    with sqlite3.connect(tmp_path / "data" / "proxyctl.db") as connection:
        dump = "\n".join(connection.iterdump())
    connection.close()
    assert "bedrock_key.set" in dump
    for secret in secrets:
        assert secret not in dump
        assert secret.encode().hex() not in dump.lower()


async def test_what_the_daemon_refuses_is_said_and_not_quoted(shell: Shell) -> None:
    for secret, says in (("sk-ant-api03-abcdef", "Anthropic"), ("ABSKabc\n\n", "line break"), ("", "is empty")):
        done = await shell(*SET, "--from-file", "-", stdin=secret)
        assert (done.code, says in done.err) == (7, True), done.err
        assert "abc" not in done.err
    there = await shell(*SET, "--ambient", "--region", "mars-1")
    assert (there.code, "unknown region" in there.err) == (7, True)
    long = await shell(*SET, "--from-file", "-", stdin="ABSK" + "a" * 300_000)
    assert (long.code, "larger than" in long.err) == (1, True)


async def test_a_key_is_tried_and_a_failure_is_an_exit_code(tmp_path: Path) -> None:
    async with running_simulator() as (_, plan), running_bedrock() as (_, bedrock):
        async with running_daemon(tmp_path, plan, PROXY_BEDROCK_URL=bedrock) as daemon:
            await daemon.create_key()
            shell = Shell(daemon.url, await daemon.admin_token())
            assert (await shell("bedrock-keys", "test", "laptop")).code == 3
            await shell(*SET, "--from-file", "-", "--region", "us-east-1", stdin=SECRET)
            worked = await shell("bedrock-keys", "test", "laptop", "-o", "json")
            assert (worked.code, json.loads(worked.out)["ok"]) == (0, True), worked
        async with running_daemon(tmp_path, plan, PROXY_BEDROCK_URL="http://127.0.0.1:9") as daemon:
            shell = Shell(daemon.url, await daemon.admin_token())
            failed = await shell("bedrock-keys", "test", "laptop")
            assert (failed.code, "of alice/laptop does not work" in failed.err) == (1, True), failed
            assert SECRET not in worked.out + worked.err + failed.out + failed.err


WRONG: list[tuple[tuple[str, ...], str]] = [
    ((), "nobody can be asked"),
    (("--iam",), "--iam needs --access-key-id"),
    (("--iam", "--ambient"), "exclude each other"),
    (("--ambient", "--from-env", "S"), "takes no secret"),
    (("--assume-role", ROLE, "--from-file", "-"), "takes no secret"),
    (("--access-key-id", IAM_ID), "goes with --iam only"),
    (("--ambient", "--external-id-from-env", "S"), "goes with --assume-role only"),
    (("--from-env", SECRET), "expected the name of an environment variable"),
    (("--from-env", "ABSKabcdef"), "no such environment variable"),
    (("--from-env", "S", "--from-file", "-"), "exclude each other"),
    (("--from-env", "ODD"), "not the text of a key"),
    (("--from-file", "-", "--token-file", "-"), "cannot both read standard input"),
]  # fmt: skip


async def test_what_cannot_be_meant_is_a_usage_error(shell: Shell) -> None:
    token = {"stdin": shell.token}
    for options, says in WRONG:
        done = await shell(*SET, *options, S="s", ODD="käy", **token)
        assert (done.code, says in done.err) == (2, True), (options, done.err)
        assert SECRET not in done.err
        assert "ABSKabcdef" not in done.err


async def test_a_file_that_others_can_read_is_refused(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "open"
    file.write_text(SECRET)
    file.chmod(0o644)
    done = await shell(*SET, "--from-file", str(file))
    assert (done.code, "can be read by others" in done.err) == (2, True)


async def test_there_is_no_option_for_the_secret() -> None:
    done = await proxyctl("bedrock-keys", "set", "--help")
    assert "Example: proxyctl bedrock-keys set" in done.out
    for option in ("--api-key ", "--secret", "--session-token ", "--external-id "):
        assert option not in done.out


async def test_a_daemon_with_a_kms_key_seals_with_it_and_serves_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with moto_process() as (kms, process):
        arn = await asyncio.to_thread(lambda: kms_client(REGION, kms).create_key()["KeyMetadata"]["Arn"])
        variables = {"PROXY_KMS_KEY_ID": arn, "PROXY_KMS_URL": kms}
        async with running_simulator() as (_, plan), running_daemon(tmp_path, plan, **variables) as daemon:
            await daemon.create_key()
            shell = Shell(daemon.url, await daemon.admin_token())
            done = await shell(*SET, "--from-file", "-", "-o", "json", stdin=SECRET)
            assert json.loads(done.out)["sealed_by"] == "kms"
            process.send_signal(signal.SIGSTOP)
            try:
                away = await shell(*SET, "--ambient")
                assert (away.code, "KMS did not answer in 2 s" in away.err) == (1, True)
                assert (await shell("bedrock-keys", "status", "laptop", "--query", "auth")).out == '"api_key"\n'
            finally:
                process.send_signal(signal.SIGCONT)
            assert (await shell(*SET, "--ambient")).code == 0


async def test_a_key_that_is_tested_and_fails_opens_no_circuit(tmp_path: Path) -> None:
    sealing = {"PROXY_LOCAL_ENCRYPTION_KEY": "0f" * 32, "PROXY_BEDROCK_URL": "http://127.0.0.1:9"}
    async with running_daemon(tmp_path, "http://127.0.0.1:9", **sealing) as daemon:
        await daemon.create_key(bedrock=BEDROCK_API_KEY)
        shell = Shell(daemon.url, await daemon.admin_token())
        for _ in range(4):
            assert (await shell("bedrock-keys", "test", "alice/laptop")).code == 1
        assert (await shell("circuits", "list")).out == ""
