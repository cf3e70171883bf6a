"""Where the admin token comes from: token file, environment, keyring, in this order. It is never an option's value."""

import os
import stat
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from proxyctl.errors import AuthError, UsageError

SERVICE = "proxyctl"
_KEYRING_SECONDS = 3.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Token:
    """A token, and where it was found."""

    secret: str
    source: str

    def __repr__(self) -> str:
        return f"Token(source={self.source!r})"


def find_token(server: str, token_file: str | None) -> Token | None:
    """The token for a daemon, None when there is none."""
    if token_file:
        return _checked(read_secret_file(token_file), f"--token-file {token_file}")
    if secret := os.environ.get("PROXY_ADMIN_TOKEN"):
        return _checked(secret, "PROXY_ADMIN_TOKEN")
    try:
        stored = _with_keyring(lambda keyring: keyring.get_password(SERVICE, server))
    except KeyringUnavailable:
        return None
    return _checked(stored, "keyring") if stored else None


def _checked(secret: str, source: str) -> Token:
    """A token that can be a header. One that cannot is refused here: the HTTP library's refusal would quote it."""
    secret = secret.strip()
    if not secret or not all("!" <= character <= "~" for character in secret):
        raise UsageError(f"{source} does not hold a token: expected one line without spaces")
    return Token(secret, source)


def store_token(server: str, secret: str) -> None:
    """Keep a token in the system's keyring.

    Raises:
        AuthError: there is no keyring; nothing was written anywhere.
    """
    try:
        _with_keyring(lambda keyring: keyring.set_password(SERVICE, server, secret))
    except KeyringUnavailable as error:
        raise AuthError(
            f"the token was not stored: {error}",
            hint="export PROXY_ADMIN_TOKEN=$(proxyctl auth login --print-token …)",
        ) from error


def forget_token(server: str) -> bool:
    """Remove the token; whether there was one."""
    try:
        if _with_keyring(lambda keyring: keyring.get_password(SERVICE, server)) is None:
            return False
        _with_keyring(lambda keyring: keyring.delete_password(SERVICE, server))
    except KeyringUnavailable:
        return False
    return True


def read_secret_file(path: str) -> str:
    """A secret from a file, or from standard input for `-`. A file that others can read is refused."""
    if path == "-":
        return sys.stdin.read().removesuffix("\n")
    try:
        mode = Path(path).stat().st_mode
        secret = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    if stat.S_IMODE(mode) & 0o077:
        raise UsageError(f"{path} can be read by others", hint=f"chmod 600 {path}")
    return secret.removesuffix("\n")


class KeyringUnavailable(Exception):
    """No keyring, a locked one, or one that does not answer."""


def _with_keyring(use: Callable[[Any], T]) -> T:
    """Call the keyring in a thread: a locked one may wait for ever for somebody to type a password.

    The thread is a daemon one, since an executor's is joined when the interpreter ends.
    """
    answer: list[T] = []
    failure: list[Exception] = []

    def ask() -> None:
        try:
            import keyring

            answer.append(use(keyring))
        except Exception as error:  # noqa: BLE001 - backends raise what their platform raises; told below
            failure.append(error)

    thread = threading.Thread(target=ask, name="keyring", daemon=True)
    thread.start()
    thread.join(_KEYRING_SECONDS)
    if answer:
        return answer[0]
    if failure:
        raise KeyringUnavailable(f"no usable keyring ({type(failure[0]).__name__})") from failure[0]
    raise KeyringUnavailable(f"the keyring did not answer in {_KEYRING_SECONDS:g} s")
