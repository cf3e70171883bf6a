"""Secrets of an installation: given by the environment, or made once on a laptop's SQLite."""

import json
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from daemon.settings import Settings, SettingsProblem, decode_key, missing_for_postgres

FILE_NAME = "secrets.json"
ENCRYPTION_KEY_BYTES = 32
_GENERATED = ("key_hasher_secret", "jwt_secret", "local_encryption_key", "admin_password_hash")


@dataclass(frozen=True, slots=True, repr=False)
class Secrets:
    """What the daemon signs, hashes and seals with. Has no `repr` on purpose."""

    key_hasher_secret: bytes
    jwt_secret: bytes
    admin_password_hash: str
    local_encryption_key: bytes | None = None
    new_admin_password: str | None = None


def data_directory(settings: Settings) -> Path:
    """Where SQLite, the journal and generated secrets live."""
    return settings.data_dir or Path(platformdirs.user_data_dir("proxyctl", appauthor=False))


def database_url(settings: Settings) -> str:
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    return f"sqlite+aiosqlite:///{data_directory(settings) / 'proxyctl.db'}"


def load_secrets(settings: Settings, hash_password: Callable[[str], str]) -> Secrets | list[SettingsProblem]:
    """Secrets for these settings. On SQLite what is missing is generated into a file that only its owner can read."""
    if database_url(settings).startswith("postgresql"):
        problems = missing_for_postgres(settings)
        if problems:
            return problems
    given = {name: value.get_secret_value() for name in _GENERATED if (value := getattr(settings, name)) is not None}
    path = data_directory(settings) / FILE_NAME
    kept, password = given, None
    if len(given) < len(_GENERATED) and not database_url(settings).startswith("postgresql"):
        stored = _read(path)
        password = None if "admin_password_hash" in (given | stored) else secrets.token_urlsafe(15)
        fresh = _generate(hash_password(password) if password else None)
        missing = {name: value for name, value in fresh.items() if name not in given | stored}
        if missing:
            _write(path, stored | missing)
        kept = fresh | stored | given
    local_key = decode_key(kept["local_encryption_key"]) or b"" if "local_encryption_key" in kept else None
    if local_key is not None and len(local_key) != ENCRYPTION_KEY_BYTES:
        return [SettingsProblem("PROXY_LOCAL_ENCRYPTION_KEY", f"is not {ENCRYPTION_KEY_BYTES} bytes in {path}")]
    return Secrets(
        key_hasher_secret=kept["key_hasher_secret"].encode(),
        jwt_secret=kept["jwt_secret"].encode(),
        admin_password_hash=kept["admin_password_hash"],
        local_encryption_key=local_key,
        new_admin_password=password,
    )


def _generate(password_hash: str | None) -> dict[str, str]:
    made = {
        "key_hasher_secret": secrets.token_urlsafe(48),
        "jwt_secret": secrets.token_urlsafe(48),
        "local_encryption_key": secrets.token_hex(32),
    }
    return made | ({"admin_password_hash": password_hash} if password_hash else {})


def _read(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    stored = json.loads(path.read_text(encoding="utf-8"))
    return {name: str(stored[name]) for name in _GENERATED if name in stored}


def _write(path: Path, values: dict[str, str]) -> None:
    """Replace the file in one step, readable by its owner alone from its first byte."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(values, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
