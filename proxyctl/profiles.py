"""Settings of the command line: a flag, else a variable, else the profile in config.toml, else what is built in.

Nothing secret is kept here; tokens are in the keyring (`credentials.py`).
"""

import os
import re
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxyctl.errors import UsageError

DEFAULT_PROFILE = "default"
BUILT_IN = {"server": "http://127.0.0.1:8000", "output": None, "ca_bundle": None, "timeout": "30"}
VARIABLES = {
    "server": ("PROXY_SERVER",),
    "output": ("PROXY_OUTPUT",),
    "ca_bundle": ("PROXY_CA_BUNDLE", "SSL_CERT_FILE"),
    "timeout": ("PROXY_TIMEOUT",),
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)
_LARGEST = 1 << 20


@dataclass(frozen=True, slots=True)
class Setting:
    """A value, and where it comes from."""

    value: str | None
    source: str


NOT_SET = Setting(None, "built in")


@dataclass(frozen=True, slots=True)
class Profiles:
    """What config.toml says: the profile in use, and the settings of each."""

    current: str = DEFAULT_PROFILE
    profiles: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def of(self, name: str) -> Mapping[str, str]:
        return self.profiles.get(name, {})


def config_path() -> Path:
    """Where config.toml is: `XDG_CONFIG_HOME/proxyctl` on Linux, the platform's own place elsewhere."""
    import platformdirs

    return Path(platformdirs.user_config_dir("proxyctl", appauthor=False)) / "config.toml"


def read() -> Profiles:
    """The file as it is; without one there are no profiles.

    Raises:
        UsageError: it cannot be read, or holds what it must not; names the file, and the key.
    """
    path = config_path()
    try:
        if not path.exists():
            return Profiles()
        if not path.is_file() or path.stat().st_size > _LARGEST:
            raise UsageError(f"{path} is not a configuration file")
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: {error}", hint="proxyctl config path") from error
    return _parsed(document, path)


def resolve(name: str, *, flag: str | None, profile: str, profiles: Profiles) -> Setting:
    """One setting, and its source."""
    if flag is not None:
        return Setting(flag, f"--{name.replace('_', '-')}")
    for variable in VARIABLES[name]:
        if value := os.environ.get(variable):
            return Setting(value, variable)
    if (value := profiles.of(profile).get(name)) is not None:
        return Setting(value, f"profile {profile}")
    return Setting(BUILT_IN[name], "built in")


def checked_name(name: str) -> str:
    """A profile's name: it becomes part of the name of a secret, so it is plain."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"profile {name!r}: expected letters, digits, '.', '_' and '-', at most 64", hint="proxyctl config profiles"
        )
    return name


def checked_key(key: str) -> str:
    if key not in BUILT_IN:
        raise UsageError(f"{key!r} is no setting of a profile", hint=f"settings: {', '.join(BUILT_IN)}")
    return key


def save(
    *, profile: str | None = None, key: str | None = None, value: str | None = None, use: str | None = None
) -> Path:
    """Set (or with None remove) one key of a profile, or the profile in use; comments in the file stay."""
    import tomlkit

    path = config_path()
    read()  # a file that is not understood is not written to
    document = tomlkit.parse(path.read_text(encoding="utf-8")) if path.exists() else tomlkit.document()
    if use is not None:
        document["profile"] = use
    if profile is not None and key is not None:
        table: Any = document.setdefault("profiles", tomlkit.table(is_super_table=True)).setdefault(
            profile, tomlkit.table()
        )
        if value is None:
            table.pop(key, None)
        else:
            table[key] = value
    write_private(path, tomlkit.dumps(document))
    return path


def write_private(path: Path, text: str) -> None:
    """Replace a file of the user's own in one step, mode 0600."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _parsed(document: Mapping[str, Any], path: Path) -> Profiles:
    unknown = sorted(set(document) - {"profile", "profiles"})
    if unknown:
        raise UsageError(f"{path}: {unknown[0]}: is not known (expected profile, profiles)")
    current, tables = document.get("profile", DEFAULT_PROFILE), document.get("profiles", {})
    if not isinstance(current, str) or not isinstance(tables, dict):
        raise UsageError(f"{path}: profile: expected a name; profiles: expected tables [profiles.NAME]")
    for name, table in tables.items():
        checked_name(name)
        for key, value in table.items() if isinstance(table, dict) else [("", None)]:
            if key not in BUILT_IN or not isinstance(value, str | int | float) or isinstance(value, bool):
                raise UsageError(f"{path}: profiles.{name}.{key}: expected one of {', '.join(BUILT_IN)}, with a text")
    return Profiles(
        checked_name(current),
        {name: {key: str(value) for key, value in table.items()} for name, table in tables.items()},
    )
