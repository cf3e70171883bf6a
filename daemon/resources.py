"""Where files that are not code live: inside the installed package, or in a checkout."""

from pathlib import Path

_PACKAGE = Path(__file__).parent


def migrations_path() -> Path:
    packaged = _PACKAGE / "migrations"
    return packaged if packaged.is_dir() else _PACKAGE.parent / "migrations"


def data_file(name: str) -> Path:
    return _PACKAGE / "data" / name
