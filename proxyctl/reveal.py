"""Showing an access key, once: to a person, to a file, or in the form Claude Code reads."""

import json
import os
import sys
from enum import StrEnum

from proxyctl.errors import CliError
from proxyctl.output import abandon


class Emit(StrEnum):
    """The form in which a new key leaves."""

    KEY = "key"
    ENV = "env"
    CLAUDE_SETTINGS = "claude-settings"


_OWN_LOGIN = (
    "# Claude Code keeps its own Claude login, which pays for what the plan serves; the key in the URL says who asks.\n"
)
_OUR_LOGIN = "# No Claude login is needed: the gateway has the credentials, the key says who asks.\n"


def rendered(key: str, server: str, emit: Emit, *, own_login: bool) -> str:
    """The text that carries the key.

    With `own_login` the client's Authorization header has to stay free for the developer's own Claude login, so the
    key goes into the URL; else the key is the token, and stays out of URLs.
    """
    base = server.rstrip("/")
    if own_login:
        variables = {"ANTHROPIC_BASE_URL": f"{base}/ak/{key}"}
    else:
        variables = {"ANTHROPIC_BASE_URL": base, "ANTHROPIC_AUTH_TOKEN": key}
    match emit:
        case Emit.KEY:
            return f"{key}\n"
        case Emit.ENV:
            advice = _OWN_LOGIN if own_login else _OUR_LOGIN
            return advice + "".join(f"export {name}={value}\n" for name, value in variables.items())
        case Emit.CLAUDE_SETTINGS:
            return json.dumps({"env": variables}, indent=2) + "\n"


def deliver(
    text: str, output_file: str | None, *, quiet: bool, noun: str = "key", again: str = "proxyctl keys rotate …"
) -> None:
    """Write a secret to a new 0600 file, or to standard output with a word about where it may stay."""
    if output_file is not None:
        try:
            descriptor = os.open(output_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise CliError(
                f"the {noun} exists, but {output_file} cannot be written: {error.strerror}",
                hint=f"{again}, with another --output-file",
            ) from error
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        return
    if not quiet:
        sys.stderr.write(f"This {noun} is shown once. ")
        sys.stderr.write(
            "Keep it like a password.\n" if sys.stdout.isatty() else "It is now in this output, and in its log.\n"
        )
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        abandon()
        raise CliError(f"the {noun} exists, but could not be printed: {error.strerror}", hint=again) from error


def check_output_file(output_file: str | None) -> None:
    """Refuse a file that cannot be made, before a key is made that could not be kept."""
    if output_file is None:
        return
    if os.path.lexists(output_file):
        raise CliError(f"{output_file} exists already, nothing was created", hint="name a new file")
    folder = os.path.dirname(output_file) or "."  # noqa: PTH120
    if not os.access(folder, os.W_OK | os.X_OK):
        raise CliError(f"{folder} is not a folder that can be written, nothing was created", hint="name another file")
