"""What `claude check` makes of a machine, and the helper that keeps the key out of the settings."""

import json
from pathlib import Path

import pytest

from daemon.core.identity import make_access_key
from proxyctl.claude_check import judge, machine
from proxyctl.claude_settings import Merged, helper_command, kept_for, merge, variables
from tests.cli.test_cli import proxyctl
from tests.support.daemon import running_daemon

KEY = make_access_key(bytes(range(32)))
OTHER = make_access_key(bytes(range(1, 33)))
SERVER = "https://gateway.example"
GOOD = {"ANTHROPIC_BASE_URL": SERVER, "ANTHROPIC_AUTH_TOKEN": KEY}
NOWHERE = "http://127.0.0.1:9"


def write(path: Path, **settings: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings))
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    ("variables", "name", "status", "word"),
    [
        (GOOD, "credential", "ok", "as the credential"),
        ({}, "address", "failed", "not set"),
        (GOOD | {"ANTHROPIC_BASE_URL": f"{SERVER}/v1"}, "address", "failed", "ends in /v1"),
        (GOOD | {"ANTHROPIC_BASE_URL": "gateway.example"}, "address", "failed", "is not http"),
        (GOOD | {"CLAUDE_CODE_USE_BEDROCK": "1"}, "provider", "failed", "past the gateway"),
        (GOOD | {"CLAUDE_CODE_USE_BEDROCK": "0"}, "provider", "ok", "Anthropic API"),
        (GOOD | {"ANTHROPIC_API_KEY": "sk-ant-mine"}, "credential", "warning", "goes out beside"),
        (GOOD | {"ANTHROPIC_AUTH_TOKEN": KEY[:-3]}, "credential", "failed", "no whole access key"),
        ({"ANTHROPIC_BASE_URL": SERVER, "ANTHROPIC_AUTH_TOKEN": "sk-other"}, "credential", "failed", "no access key"),
        ({"ANTHROPIC_BASE_URL": f"{SERVER}/ak/{KEY}"}, "credential", "ok", "own Claude login"),
        (GOOD | {"ANTHROPIC_BASE_URL": f"{SERVER}/ak/{KEY}"}, "credential", "warning", "as the token"),
        ({"ANTHROPIC_BASE_URL": "https://me:" + KEY + "@gateway.example"}, "address", "failed", "name or a password"),
        ({"ANTHROPIC_BASE_URL": KEY}, "address", "failed", "is not http"),
        ({"ANTHROPIC_BASE_URL": "https://[bad"}, "address", "failed", "is not http"),
        ({"ANTHROPIC_BASE_URL": "http://gateway.lan"}, "address", "warning", "plain HTTP"),
        (GOOD | {"ANTHROPIC_AUTH_TOKEN": KEY + "\n"}, "credential", "failed", "something around it"),
        (GOOD | {"ANTHROPIC_AUTH_TOKEN": KEY + "é"}, "credential", "failed", "no whole access key"),
        (GOOD | {"ANTHROPIC_CUSTOM_HEADERS": f"x-proxy-key: {OTHER}"}, "credential", "failed", "two different"),
        (
            {"ANTHROPIC_BASE_URL": SERVER, "ANTHROPIC_CUSTOM_HEADERS": f"x-a: b\nX-Proxy-Key: {KEY}"},
            "credential",
            "ok",
            "ak_",
        ),
    ],
)
def test_what_is_in_force_is_judged(
    variables: dict[str, str], name: str, status: str, word: str, tmp_path: Path
) -> None:
    found = {finding.name: finding for finding in judge(machine(variables, tmp_path, tmp_path / "project"))}
    assert (found[name].status, word in found[name].detail) == (status, True), found[name]
    assert not any(KEY in f"{finding.detail}{finding.fix}" for finding in found.values())


def test_a_file_goes_over_the_shell_and_the_nearer_file_over_the_farther(tmp_path: Path) -> None:
    home, project = tmp_path / "home", tmp_path / "project"
    shell = {"ANTHROPIC_BASE_URL": "https://shell.example"}
    assert machine(shell, home, project).base == "https://shell.example"
    for name, path in (
        ("user", home / ".claude/settings.json"),
        ("project", project / ".claude/settings.json"),
        ("local", project / ".claude/settings.local.json"),
    ):
        write(path, env={"ANTHROPIC_BASE_URL": f"https://{name}.example"})
        here = machine(shell, home, project)
        assert (here.base, here.sources["ANTHROPIC_BASE_URL"]) == (f"https://{name}.example", path)
    moved = machine({"CLAUDE_CONFIG_DIR": str(tmp_path)}, home, tmp_path / "elsewhere")
    assert moved.base == ""


def test_a_file_that_is_broken_or_open_to_others_is_named(tmp_path: Path) -> None:
    path = tmp_path / ".claude/settings.json"
    write(path, env=GOOD).chmod(0o644)
    (finding,) = machine({}, tmp_path, tmp_path / "project").files
    assert (finding.status, finding.fix) == ("warning", f"chmod 600 {path}")
    path.write_text('{"env": {')
    (finding,) = machine({}, tmp_path, tmp_path / "project").files
    assert (finding.status, "line 1" in finding.detail) == ("failed", True)


def test_a_helper_takes_the_token_away_and_goes_with_it(tmp_path: Path) -> None:
    helper = helper_command("/opt/my tools/proxyctl", SERVER)
    assert helper == "'/opt/my tools/proxyctl' claude key --server https://gateway.example"
    assert kept_for(helper) == SERVER
    first = merge(json.dumps({"model": "opus", "env": GOOD}), variables(None, SERVER, own_login=False), helper)
    assert isinstance(first, Merged)
    assert json.loads(first.text) == {"model": "opus", "env": {"ANTHROPIC_BASE_URL": SERVER}, "apiKeyHelper": helper}
    back = merge(first.text, variables(KEY, SERVER, own_login=False))
    assert isinstance(back, Merged)
    assert json.loads(back.text) == {"model": "opus", "env": GOOD}
    foreign = merge('{"apiKeyHelper": "vault read key"}', variables(KEY, SERVER, own_login=False))
    assert isinstance(foreign, Merged)
    assert json.loads(foreign.text)["apiKeyHelper"] == "vault read key"

    write(tmp_path / ".claude/settings.json", env=GOOD, apiKeyHelper="vault read key")
    shown = judge(machine({"ANTHROPIC_AUTH_TOKEN": "sk-other"}, tmp_path, tmp_path / "project"))
    assert shown[-1].status == "ok"  # the file's token goes over the shell's
    write(tmp_path / ".claude/settings.json", env={"ANTHROPIC_BASE_URL": SERVER}, apiKeyHelper="vault read key")
    hidden = judge(machine({"ANTHROPIC_AUTH_TOKEN": "sk-other"}, tmp_path, tmp_path / "project"))
    assert (hidden[-1].status, hidden[-1].fix) == ("failed", "unset ANTHROPIC_AUTH_TOKEN")


@pytest.mark.parametrize("helper", [5, "echo " + KEY, "proxyctl claude key --server 'unclosed"])
def test_a_helper_that_is_not_ours_is_shown_without_a_key_in_it(helper: object, tmp_path: Path) -> None:
    write(tmp_path / ".claude/settings.json", env={"ANTHROPIC_BASE_URL": SERVER}, apiKeyHelper=helper)
    credential = judge(machine({}, tmp_path, tmp_path / "project"))[-1]
    assert credential.status == ("ok" if isinstance(helper, str) else "failed")
    assert KEY not in credential.detail
    assert kept_for(helper) is None


async def test_the_key_is_kept_printed_and_known_to_the_gateway(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, NOWHERE) as daemon:
        key = await daemon.create_key()
        home = {"HOME": str(tmp_path), "PROXY_SERVER": daemon.url}
        setup = ("claude", "setup", "--key-file", "-", "--api-key-helper")
        refused = await proxyctl(*setup, stdin=key, **home)
        assert (refused.code, "was not stored" in refused.err) == (4, True), refused.err
        assert not (tmp_path / ".claude").exists()
        done = await proxyctl(*setup, "--insecure-storage", stdin=key, **home)
        assert (done.code, key in done.out + done.err) == (0, False), done.err
        assert key not in (tmp_path / ".claude/settings.json").read_text()
        printed = await proxyctl("claude", "key", **home)
        assert (printed.code, printed.out) == (0, f"{key}\n")
        assert (await proxyctl("claude", "key", "--server", "http://127.0.0.1:1", **home)).code == 4

        checked = await proxyctl("claude", "check", "-o", "json", **home)
        found = {check["name"]: check for check in json.loads(checked.out)["checks"]}
        assert (checked.code, found["gateway"]["detail"]) == (0, f"{daemon.url} knows the key"), checked.out
        assert (found["service"]["status"], "cannot reach" in found["service"]["detail"]) == ("warning", True)
        write(tmp_path / ".claude/settings.json", env={"ANTHROPIC_BASE_URL": daemon.url, "ANTHROPIC_AUTH_TOKEN": KEY})
        unknown = await proxyctl("claude", "check", **home)
        assert (unknown.code, "does not know ak_" in unknown.out, KEY in unknown.out) == (1, True, False)


async def test_a_gateway_without_a_credential_for_the_plan_is_told(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, NOWHERE, PROXY_PLAN_API_KEY="") as daemon:
        here = {"ANTHROPIC_BASE_URL": daemon.url, "ANTHROPIC_AUTH_TOKEN": await daemon.create_key()}
        done = await proxyctl("claude", "check", "-o", "json", **here)
        found = {check["name"]: check for check in json.loads(done.out)["checks"]}
        assert (done.code, found["gateway"]["status"], found["service"]["status"]) == (1, "ok", "failed")
        assert "no credential" in found["service"]["detail"]
