"""Where manifests are: a file, a folder of them, or standard input."""

import sys
from pathlib import Path

from proxyctl.errors import UsageError

_ENDINGS = (".yaml", ".yml", ".json")


def texts(file: str) -> list[tuple[str, str]]:
    """The name and text of each file, in the order of names.

    Raises:
        UsageError: there is none, or one cannot be read.
    """
    if file == "-":
        return [("standard input", sys.stdin.read())]
    path = Path(file)
    paths = [path]
    if path.is_dir():
        paths = sorted(entry for entry in path.iterdir() if entry.suffix in _ENDINGS and entry.is_file())
        if not paths:
            raise UsageError(f"{file}: expected a folder with manifests ({', '.join(_ENDINGS)})")
    found = []
    for path in paths:
        try:
            found.append((str(path), path.read_text(encoding="utf-8")))
        except UnicodeError as error:
            raise UsageError(f"{path} is not UTF-8 text") from error
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    return found
