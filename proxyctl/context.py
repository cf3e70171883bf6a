"""What every command has: its options, a client, a printer. Nothing is built before it is used."""

import os
import sys
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING

from proxyctl.errors import AuthError, UsageError
from proxyctl.output import Printer

if TYPE_CHECKING:
    from proxyctl.client import AdminClient
    from proxyctl.credentials import Token

DEFAULT_SERVER = "http://127.0.0.1:8000"


@dataclass(frozen=True, slots=True)
class Options:
    """The global options; None means not given here."""

    server: str | None = None
    output: str | None = None
    token_file: str | None = None
    query: str | None = None
    timeout: float | None = None
    quiet: bool | None = None
    yes: bool | None = None
    no_input: bool | None = None
    debug: bool | None = None

    def over(self, other: "Options") -> "Options":
        """These options, and those of `other` where nothing was given here."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return Options(**{k: getattr(other, k) if v is None else v for k, v in values.items()})


class Cli:
    """One run of one command."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.server = options.server or os.environ.get("PROXY_SERVER") or DEFAULT_SERVER
        self.quiet = bool(options.quiet)

    @cached_property
    def printer(self) -> Printer:
        return Printer(self.options.output or os.environ.get("PROXY_OUTPUT"), self.options.query)

    @cached_property
    def token(self) -> "Token | None":
        from proxyctl.credentials import find_token

        return find_token(self.server, self.options.token_file)

    @cached_property
    def client(self) -> "AdminClient":
        """A client that is signed in."""
        if self.token is None:
            raise AuthError("not signed in", hint="proxyctl auth login      or set PROXY_ADMIN_TOKEN")
        return self.new_client(self.token.secret)

    def new_client(self, token: str | None, *, server: str | None = None) -> "AdminClient":
        """A client with a token, for the server of this run or another one."""
        from proxyctl.client import AdminClient

        given = self.options.timeout
        return AdminClient(
            server or self.server, token, timeout=_seconds("PROXY_TIMEOUT", 30.0) if given is None else given
        )

    @property
    def interactive(self) -> bool:
        """Whether somebody can be asked."""
        return sys.stdin.isatty() and not (
            self.options.no_input or os.environ.get("PROXY_NO_INPUT") or os.environ.get("CI")
        )

    def tell(self, message: str) -> None:
        """A line for a person, on standard error."""
        if not self.quiet:
            sys.stderr.write(message + "\n")

    def confirm(self, question: str, *, name: str) -> None:
        """Make sure that it is meant: `--yes`, or the name typed again."""
        if self.options.yes:
            return
        if not self.interactive:
            raise UsageError(f"{question}: --yes is required when nobody can be asked")
        sys.stderr.write(f"{question}. Type {name!r} to confirm: ")
        sys.stderr.flush()
        if sys.stdin.readline().strip() != name:
            raise UsageError("not confirmed, nothing was changed")


def _seconds(variable: str, default: float) -> float:
    text = os.environ.get(variable, "")
    try:
        return float(text) if text else default
    except ValueError as error:
        raise UsageError(f"{variable}={text!r}: expected seconds") from error
