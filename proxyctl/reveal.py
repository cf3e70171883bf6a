"""Showing an access key, once: to a person, to a file, or in the form Claude Code reads."""

import json
import os
import sys
from enum import StrEnum

from proxyctl.errors import CliError


class Emit(StrEnum):
    """The form in which a new key leaves."""

    KEY = "key"
    ENV = "env"
    CLAUDE_SETTINGS = "claude-settings"


_ADVICE = (
    "# Keep your own Claude login, or, if the gateway has the company's key, set any ANTHROPIC_AUTH_TOKEN:\n"
    "# the access key in the URL is what counts.\n"
)


def rendered(key: str, server: str, emit: Emit) -> str:
    """The text that carries the key."""
    url = f"{server.rstrip('/')}/ak/{key}"
    match emit:
        case Emit.KEY:
            return f"{key}\n"
        case Emit.ENV:
            return f"{_ADVICE}export ANTHROPIC_BASE_URL={url}\n"
        case Emit.CLAUDE_SETTINGS:
            return json.dumps({"env": {"ANTHROPIC_BASE_URL": url}}, indent=2) + "\n"


def deliver(text: str, output_file: str | None, *, quiet: bool) -> None:
    """Write a secret to a new 0600 file, or to standard output with a word about where it may stay."""
    if output_file is not None:
        try:
            descriptor = os.open(output_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise CliError(
                f"the key exists, but {output_file} cannot be written: {error.strerror}",
                hint="proxyctl keys rotate …, with another --output-file",
            ) from error
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        return
    if not quiet:
        sys.stderr.write("This key is shown once. ")
        sys.stderr.write(
            "Keep it like a password.\n" if sys.stdout.isatty() else "It is now in this output, and in its log.\n"
        )
    sys.stdout.write(text)


def check_output_file(output_file: str | None) -> None:
    """Refuse a file that cannot be made, before a key is made that could not be kept."""
    if output_file is None:
        return
    if os.path.lexists(output_file):
        raise CliError(f"{output_file} exists already, nothing was created", hint="name a new file")
    folder = os.path.dirname(output_file) or "."  # noqa: PTH120
    if not os.access(folder, os.W_OK | os.X_OK):
        raise CliError(f"{folder} is not a folder that can be written, nothing was created", hint="name another file")
