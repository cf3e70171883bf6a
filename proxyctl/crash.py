"""A report of a bug, in a file: for a person to send. It shows code lines, never values of variables."""

import os
import platform
import sys
import traceback
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from proxyctl.output import without_keys


def report(error: BaseException, arguments: list[str]) -> Path | None:
    """Write the report (mode 0600); where it is, None when it cannot be written."""
    import platformdirs

    folder = Path(platformdirs.user_state_dir("proxyctl", appauthor=False))
    now = datetime.now(UTC)
    path = folder / f"crash-{now:%Y%m%dT%H%M%SZ}-{os.getpid()}.txt"
    lines = [
        f"proxyctl {version('claude-code-proxyctl')}, Python {platform.python_version()}, {platform.platform()}",
        f"{now:%Y-%m-%dT%H:%M:%SZ}",
        f"arguments: {arguments}",
        f"terminal: in {sys.stdin.isatty()}, out {sys.stdout.isatty()}",
        "",
        *traceback.format_exception(error),
    ]
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(without_keys("\n".join(lines)))
    except OSError:
        return None
    return path
