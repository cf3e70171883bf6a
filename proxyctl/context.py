"""What every command has: its options, a client, a printer. Nothing is built before it is used."""

import os
import sys
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING

from proxyctl.errors import AuthError, UsageError
from proxyctl.output import Printer
from proxyctl.profiles import DEFAULT_PROFILE, Profiles, Setting, checked_name, read, resolve

if TYPE_CHECKING:
    from proxyctl.client import AdminClient
    from proxyctl.credentials import Token


@dataclass(frozen=True, slots=True)
class Options:
    """The global options; None means not given here."""

    server: str | None = None
    profile: str | None = None
    output: str | None = None
    token_file: str | None = None
    query: str | None = None
    timeout: float | None = None
    ca_bundle: str | None = None
    allow_http: bool | None = None
    quiet: bool | None = None
    yes: bool | None = None
    no_input: bool | None = None
    dry_run: bool | None = None
    no_color: bool | None = None
    verbose: bool | None = None
    debug: bool | None = None

    def over(self, other: "Options") -> "Options":
        """These options, and those of `other` where nothing was given here."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return Options(**{k: getattr(other, k) if v is None else v for k, v in values.items()})


class Cli:
    """One run of one command."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.quiet = bool(options.quiet)
        self.dry_run = bool(options.dry_run)

    @cached_property
    def profiles(self) -> Profiles:
        return read()

    @cached_property
    def profile(self) -> Setting:
        """The profile in use. One that was named must exist; the default one need not."""
        name, source = self.options.profile, "--profile"
        if name is None:
            name, source = os.environ.get("PROXY_PROFILE") or None, "PROXY_PROFILE"
        if name is None:
            return Setting(self.profiles.current, "config.toml" if self.profiles.profiles else "built in")
        if checked_name(name) not in self.profiles.profiles and name != DEFAULT_PROFILE:
            known = ", ".join(self.profiles.profiles) or "none"
            hint = f"proxyctl config set server URL --profile {name}"
            raise UsageError(f"{source} {name!r}: there is no such profile (there are: {known})", hint=hint)
        return Setting(name, source)

    def setting(self, name: str) -> Setting:
        """A setting of this run, and where it comes from."""
        given = getattr(self.options, name)
        flag = None if given is None else str(given)
        return resolve(name, flag=flag, profile=self.profile.value or "", profiles=self.profiles)

    @cached_property
    def server(self) -> str:
        return self.setting("server").value or ""

    @property
    def account(self) -> str:
        """What the token of this profile and daemon is kept under."""
        from proxyctl.client import checked_server

        return f"{self.profile.value}@{checked_server(self.server, allow_http=True)}"

    @cached_property
    def printer(self) -> Printer:
        return Printer(self.setting("output").value, self.options.query)

    @cached_property
    def token(self) -> "Token | None":
        from proxyctl.credentials import find_token

        return find_token(self.account, self.options.token_file)

    @cached_property
    def client(self) -> "AdminClient":
        """A client that is signed in."""
        if self.token is None:
            where = f"{self.server} (profile {self.profile.value})"
            raise AuthError(f"not signed in to {where}", hint="proxyctl auth login      or set PROXY_ADMIN_TOKEN")
        return self.new_client(self.token.secret)

    def new_client(self, token: str | None, *, server: str | None = None, allow_http: bool = False) -> "AdminClient":
        """A client with a token, for the server of this run or another one."""
        from proxyctl.client import AdminClient

        return AdminClient(
            server or self.server,
            token,
            timeout=_seconds(self.setting("timeout")),
            ca_bundle=self.setting("ca_bundle"),
            allow_http=bool(allow_http or self.options.allow_http or os.environ.get("PROXY_ALLOW_HTTP")),
            note=self._note if self.is_verbose else None,
            rehearse=self._rehearse if self.dry_run else None,
        )

    @property
    def is_verbose(self) -> bool:
        return bool(self.options.verbose or self.options.debug or os.environ.get("PROXY_DEBUG"))

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
        """Make sure that it is meant: `--yes`, or the name typed again. A rehearsal needs no leave."""
        if self.options.yes or self.dry_run:
            return
        if not self.interactive:
            raise UsageError(f"{question[:1].lower()}{question[1:]}: --yes is required when nobody can be asked")
        sys.stderr.write(f"{question}. Type {name!r} to confirm: ")
        sys.stderr.flush()
        if sys.stdin.readline().strip() != name:
            raise UsageError("not confirmed, nothing was changed")

    def _note(self, line: str) -> None:
        sys.stderr.write(f"{line}\n")

    def _rehearse(self, call: dict[str, object]) -> None:
        """Show a call that is not made. The form is for programs, unless a person looks on."""
        import json

        if self.printer.form in ("json", "yaml"):
            self.printer.item(call, [], name="path")
            return
        version = f"  (If-Match {call['if_match']})" if call["if_match"] else ""
        body = "" if call["body"] is None else " " + json.dumps(call["body"], ensure_ascii=False)
        sys.stdout.write(f"{call['method']} {call['path']}{version}{body}\n")


def _seconds(setting: Setting) -> float:
    try:
        return float(setting.value or "")
    except ValueError as error:
        raise UsageError(f"{setting.source}: timeout {setting.value!r}: expected seconds") from error
