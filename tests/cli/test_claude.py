"""Claude Code's settings: only our keys change, and what cannot be read is left alone."""

import json
from pathlib import Path

import pytest

from daemon.core.identity import make_access_key
from proxyctl.claude_settings import LARGEST, Invalid, Merged, merge, variables
from proxyctl.commands.claude import setup
from proxyctl.context import Cli, Options
from proxyctl.errors import CliError

KEY = "ak_example"
ACCESS_KEY = make_access_key(bytes(range(32)))
SERVER = "https://proxy.example/"


def test_with_an_own_login_the_key_is_in_the_url_and_a_token_from_before_goes() -> None:
    before = json.dumps({"env": {"ANTHROPIC_AUTH_TOKEN": "old", "EDITOR": "vi"}})
    merged = merge(before, variables(KEY, SERVER, own_login=True))
    assert isinstance(merged, Merged)
    assert json.loads(merged.text)["env"] == {
        "EDITOR": "vi",
        "ANTHROPIC_BASE_URL": "https://proxy.example/ak/ak_example",
    }
    assert merged.changed == ("env.ANTHROPIC_BASE_URL", "env.ANTHROPIC_AUTH_TOKEN")


def test_foreign_keys_keep_their_values_and_their_order() -> None:
    before = '{"model": "opus", "env": {"Z": "1", "ANTHROPIC_BASE_URL": "old", "A": "ü"}, "hooks": {"x": []}}'
    merged = merge(before, variables(KEY, SERVER, own_login=False))
    assert isinstance(merged, Merged)
    after = json.loads(merged.text)
    assert list(after) == ["model", "env", "hooks"]
    assert list(after["env"].items()) == [
        ("Z", "1"),
        ("ANTHROPIC_BASE_URL", "https://proxy.example"),
        ("A", "ü"),
        ("ANTHROPIC_AUTH_TOKEN", KEY),
    ]


@pytest.mark.parametrize("own_login", [True, False])
def test_a_second_merge_changes_not_a_byte(own_login: bool) -> None:
    wanted = variables(KEY, SERVER, own_login=own_login)
    first = merge("", wanted)
    assert isinstance(first, Merged)
    compact = json.dumps(json.loads(first.text))
    assert merge(compact, wanted) == Merged(compact, ())


@pytest.mark.parametrize(
    ("text", "line", "column", "reason"),
    [
        ('{\n  "a" 1\n}', 2, 7, "delimiter"),
        ('{\n  // mine\n  "a": 1}', 2, 3, "comment"),
        ("[]", 1, 1, "expected an object"),
        ('{\n "env": []}', 2, 2, "env: expected an object"),
        ('{"a": 1, "a": 2}', 1, 1, "twice"),
        ('{"a": NaN}', 1, 1, "NaN is not JSON"),
        ("[" * 200_000, 1, 1, "nested too deeply"),
        (" " * (LARGEST + 1), 1, 1, "more than"),
    ],
)
def test_what_cannot_be_merged_without_loss_is_refused_with_its_place(
    text: str, line: int, column: int, reason: str
) -> None:
    refused = merge(text, variables(KEY, SERVER, own_login=False))
    assert isinstance(refused, Invalid)
    assert (refused.line, refused.column) == (line, column)
    assert reason in refused.reason


def _setup(monkeypatch: pytest.MonkeyPatch, settings: Path, *, dry_run: bool = False, own_login: bool = False) -> None:
    monkeypatch.setenv("THE_KEY", ACCESS_KEY)
    options = Options(server="https://proxy.example", dry_run=dry_run)
    setup(Cli(options), from_env="THE_KEY", settings=settings, own_login=own_login)


def test_setup_keeps_a_link_and_a_backup_and_a_file_with_a_key_is_private(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real, link = tmp_path / "real.json", tmp_path / "settings.json"
    real.write_text('{"model": "opus"}')
    real.chmod(0o640)
    link.symlink_to(real)
    _setup(monkeypatch, link)
    assert link.is_symlink()
    assert json.loads(real.read_text())["env"]["ANTHROPIC_AUTH_TOKEN"] == ACCESS_KEY
    _setup(monkeypatch, link, own_login=True)
    for file in (real, tmp_path / "real.json.backup"):
        assert file.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "real.json.backup").read_text() == '{"model": "opus"}'  # as it was before the first time
    assert sorted(file.name for file in tmp_path.iterdir()) == ["real.json", "real.json.backup", "settings.json"]


def test_a_new_file_is_private_and_a_second_run_says_unchanged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / ".claude" / "settings.json"
    _setup(monkeypatch, file)
    assert file.stat().st_mode & 0o777 == 0o600
    _setup(monkeypatch, file)
    told = capsys.readouterr()
    assert told.err.splitlines()[-1].endswith("unchanged.")
    assert ACCESS_KEY not in told.out + told.err
    assert [found.name for found in file.parent.iterdir()] == ["settings.json"]


def test_a_dry_run_writes_nothing_and_shows_no_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _setup(monkeypatch, tmp_path / "settings.json", dry_run=True)
    told = capsys.readouterr().err
    assert "would set env.ANTHROPIC_AUTH_TOKEN to ak_" in told
    assert ACCESS_KEY not in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "mode", "reason"),
    [(b'{"a" 1}', 0o600, "line 1, column 6"), (b"{}", 0o400, "read-only"), (b"\xff", 0o600, "not UTF-8")],
)
def test_what_cannot_be_changed_safely_is_left_as_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes, mode: int, reason: str
) -> None:
    file = tmp_path / "settings.json"
    file.write_bytes(content)
    file.chmod(mode)
    with pytest.raises(CliError, match=reason) as failure:
        _setup(monkeypatch, file)
    assert failure.value.exit_code == 1
    assert file.read_bytes() == content
    assert list(tmp_path.iterdir()) == [file]
