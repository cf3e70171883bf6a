"""Profiles, where settings come from, where tokens are kept, crash reports, completion: without a daemon."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from proxyctl import complete, crash, credentials, profiles
from proxyctl.context import Cli, Options
from proxyctl.errors import AuthError, UsageError
from proxyctl.output import without_keys

WORK = '[profiles.work]\nserver = "https://gateway.example"\noutput = "json"\ntimeout = 7\n'


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in [name for name in os.environ if name.startswith("PROXY_")] + ["SSL_CERT_FILE", "CI"]:
        monkeypatch.delenv(variable, raising=False)
    for variable, folder in (("CONFIG", "config"), ("CACHE", "cache"), ("STATE", "state")):
        monkeypatch.setenv(f"XDG_{variable}_HOME", str(tmp_path / folder))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    return tmp_path


def write(text: str) -> Path:
    path = profiles.config_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_flag_comes_before_a_variable_before_the_profile_before_what_is_built_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write('profile = "work"\n' + WORK)
    assert Cli(Options()).setting("server") == profiles.Setting("https://gateway.example", "profile work")
    assert Cli(Options()).setting("ca_bundle") == profiles.NOT_SET
    monkeypatch.setenv("PROXY_SERVER", "http://127.0.0.1:1")
    assert Cli(Options()).setting("server").source == "PROXY_SERVER"
    assert Cli(Options(server="http://127.0.0.1:2")).setting("server").source == "--server"
    assert Cli(Options(profile="default")).setting("timeout") == profiles.Setting("30", "built in")


def test_a_profile_that_is_not_there_is_refused_and_those_there_are_named() -> None:
    write(WORK)
    with pytest.raises(UsageError, match=r"no such profile \(there are: work\)"):
        _ = Cli(Options(profile="wrok")).server


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "x" * 65, "ü", "a b"])
def test_a_name_that_could_be_a_path_is_no_profile(name: str) -> None:
    with pytest.raises(UsageError, match="expected letters"):
        profiles.checked_name(name)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("profile = ", "config.toml"),
        ("colour = 1", "colour: is not known"),
        ("[profiles.work]\ntoken = 'x'", "profiles.work.token"),
        ("[profiles.work]\ntimeout = true", "profiles.work.timeout"),
        ("[profiles]\nwork = 1", "profiles.work"),
        ('[profiles."../x"]\nserver = "y"', "expected letters"),
        ("\udcff", "config.toml"),
    ],
)
def test_a_file_that_is_not_understood_is_named_with_the_place(text: str, word: str) -> None:
    path = write("")
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UsageError, match=word):
        profiles.read()


def test_a_setting_is_written_and_taken_away_and_comments_stay() -> None:
    path = write("# mine\n" + WORK)
    profiles.save(profile="home", key="server", value="http://127.0.0.1:8000")
    profiles.save(profile="work", key="output")
    profiles.save(use="home")
    assert profiles.read() == profiles.Profiles(
        "home",
        {"work": {"server": "https://gateway.example", "timeout": "7"}, "home": {"server": "http://127.0.0.1:8000"}},
    )
    assert path.read_text().startswith("# mine\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_token_goes_into_a_file_only_when_that_is_asked_for() -> None:
    with pytest.raises(AuthError, match="was not stored"):
        credentials.store_token("default@http://x", "secret", insecure=False)
    assert not credentials.credentials_path().exists()
    credentials.store_token("default@http://x", "secret", insecure=True)
    credentials.store_token("work@http://x", "other", insecure=True)
    path = credentials.credentials_path()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = credentials.find_token("default@http://x", None)
    assert found is not None
    assert (found.secret, found.source, "secret" in repr(found)) == ("secret", str(path), False)
    assert credentials.find_token("default@http://y", None) is None
    path.chmod(0o644)
    with pytest.raises(UsageError, match="can be read by others"):
        credentials.find_token("default@http://x", None)
    path.chmod(0o600)
    assert credentials.forget_token("default@http://x") is True
    assert credentials.forget_token("default@http://x") is False
    assert json.loads(path.read_text()) == {"work@http://x": "other"}


def test_a_secret_is_in_one_place_the_one_that_was_chosen_last(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[tuple[str, str], str] = {}

    class Keyring:
        def get_password(self, service: str, account: str) -> str | None:
            return kept.get((service, account))

        def set_password(self, service: str, account: str, secret: str) -> None:
            kept[service, account] = secret

        def delete_password(self, service: str, account: str) -> None:
            del kept[service, account]

    monkeypatch.setattr(credentials, "_with_keyring", lambda use: use(Keyring()))
    account = credentials.access_key_account("http://x")
    for secret, insecure in (("one", False), ("two", True), ("three", False)):
        credentials.store_token(account, secret, insecure=insecure)
        found = credentials.find_stored(account)
        assert found is not None
        assert found.secret == secret
        assert secret in (credentials.credentials_path().read_text() if insecure else str(kept))
    assert credentials.forget_token(account)
    assert credentials.find_stored(account) is None


def test_two_processes_that_sign_in_at_once_both_keep_their_token() -> None:
    script = (
        "import sys; from proxyctl.credentials import store_token\n"
        "for n in range(20): store_token(f'{sys.argv[1]}{n}@s', 't', insecure=True)"
    )
    running = [subprocess.Popen([sys.executable, "-c", script, name]) for name in ("a", "b")]
    assert [process.wait() for process in running] == [0, 0]
    assert len(json.loads(credentials.credentials_path().read_text())) == 40


def test_a_secret_file_that_others_may_choose_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("secret\n")
    file.chmod(0o600)
    assert credentials.read_secret_file(str(file)) == "secret"
    link = tmp_path / "link"
    link.symlink_to(file)
    with pytest.raises(UsageError, match="symbolic link"):
        credentials.read_secret_file(str(link))
    with pytest.raises(UsageError, match="not a file"):
        credentials.read_secret_file(str(tmp_path))
    with pytest.raises(UsageError, match="cannot be read"):
        credentials.read_secret_file(str(tmp_path / "missing"))
    if os.geteuid() == 0:
        os.chown(file, 12345, -1)
        with pytest.raises(UsageError, match="somebody else"):
            credentials.read_secret_file(str(file))


def test_a_crash_report_has_the_trace_and_no_secret() -> None:
    def fail(key: str) -> None:
        raise RuntimeError(f"cannot use {key}")

    try:
        fail("ak_0123456789abcdef")
    except RuntimeError as error:
        path = crash.report(error, ["keys", "create", "--x=pt_0123456789"])
    assert path is not None
    text = path.read_text()
    assert "in fail" in text
    assert "0123456789" not in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert without_keys("sk-ant-api03-abcdef") == "sk-ant-(secret)"


def test_names_for_a_shell_are_kept_for_a_minute_and_nothing_is_said_when_they_cannot_be_had() -> None:
    write(WORK)
    assert complete.profiles("w") == ["work"]
    assert complete.formats("j") == ["json"]
    asked = subprocess.run(
        [sys.executable, "-m", "proxyctl"],
        env=os.environ
        | {"_PROXYCTL_COMPLETE": "complete_bash", "COMP_WORDS": "proxyctl users get a", "COMP_CWORD": "3"}
        | {"PROXY_SERVER": "http://127.0.0.1:9", "PROXY_ADMIN_TOKEN": "t"},
        capture_output=True,
        text=True,
    )
    assert (asked.returncode, asked.stdout.strip(), asked.stderr) == (0, "", "")
