"""What a fresh clone promises: documents that agree with the code, and a wheel that holds what it needs."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import yaml

import daemon
from proxyctl.main import tree
from tests.packaging.reference import commands, reference
from tests.packaging.settings_table import BEGIN, END, table

ROOT = Path(__file__).parents[2]


def test_the_readme_lists_every_setting() -> None:
    readme = (ROOT / "README.md").read_text()
    assert readme.partition(BEGIN)[2].partition(END)[0] == table()


def test_the_readme_names_the_two_commands_and_the_makefile_has_them() -> None:
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    for verb in ("demo", "test", "check", "e2e", "run", "setup", "bench", "drill"):
        assert re.search(rf"^{verb}:", makefile, re.MULTILINE)
    assert "make demo" in readme
    assert "make test" in readme


def test_the_package_called_daemon_is_ours() -> None:
    assert daemon.__file__ is not None
    assert Path(daemon.__file__).parent.joinpath("gateway").is_dir()


def test_the_wheel_carries_migrations_and_data_and_no_tests(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run([*command, "--disable-pip-version-check"], check=True, timeout=110)
    [wheel] = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "daemon/migrations/env.py" in names
    assert any(name.startswith("daemon/migrations/versions/0001") for name in names)
    assert "daemon/data/models.json" in names
    assert not any(name.startswith(("tests/", "bench/")) for name in names)


def test_compose_starts_the_database_without_the_daemons_secrets() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert services["db"]["image"] == "postgres:15"
    assert "env_file" not in services["db"]
    assert services["daemon"]["env_file"] == [{"path": ".env", "required": False}]


def test_an_image_is_built_without_the_operators_secrets() -> None:
    assert "**/.env" in (ROOT / ".dockerignore").read_text().splitlines()


def test_lock_files_carry_no_addresses() -> None:
    for name in ("requirements.lock", "tests/e2e/package-lock.json"):
        assert "://" not in (ROOT / name).read_text()


def test_the_reference_is_that_of_the_commands() -> None:
    made = "make it anew: python -m tests.packaging.reference > proxyctl/REFERENCE.md"
    assert (ROOT / "proxyctl" / "REFERENCE.md").read_text() == reference(), made


def test_every_command_says_what_it_does() -> None:
    found = commands(tree())
    assert len(found) > 70
    for path, command in found:
        assert (command.help or "").split("\n\n")[0].rstrip().endswith("."), path
        for option in command.params:
            assert option.help, (path, option.name)
