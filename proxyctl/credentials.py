"""Where secrets of this machine are: the admin's token, and the access key that `claude key` hands to Claude Code.

The token comes from a token file, the environment, the keyring or the credentials file, in this order.

It is never an option's value. The credentials file is written only with `auth login --insecure-storage`.
"""

import json
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from proxyctl.errors import AuthError, UsageError

SERVICE = "proxyctl"
_KEYRING_SECONDS = 3.0
_PRINTED = "export PROXY_ADMIN_TOKEN=$(proxyctl auth login --print-token …)"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Token:
    """A token, and where it was found."""

    secret: str
    source: str

    def __repr__(self) -> str:
        return f"Token(source={self.source!r})"


def find_token(account: str, token_file: str | None) -> Token | None:
    """The token for an account `profile@server`, None when there is none."""
    if token_file:
        return _checked(read_secret_file(token_file), f"--token-file {token_file}")
    if secret := os.environ.get("PROXY_ADMIN_TOKEN"):
        return _checked(secret, "PROXY_ADMIN_TOKEN")
    return find_stored(account)


def find_stored(account: str) -> Token | None:
    """What the keyring, or else the credentials file, keeps for an account."""
    try:
        if stored := _with_keyring(lambda keyring: keyring.get_password(SERVICE, account)):
            return _checked(stored, "keyring")
    except KeyringUnavailable:
        pass
    path = credentials_path()
    if path.exists() and (stored := _read_file(path).get(account)):
        return _checked(stored, str(path))
    return None


def _checked(secret: str, source: str) -> Token:
    """A token that can be a header. One that cannot is refused here: the HTTP library's refusal would quote it."""
    secret = secret.strip()
    if not secret or not all("!" <= character <= "~" for character in secret):
        raise UsageError(f"{source} does not hold a token: expected one line without spaces")
    return Token(secret, source)


def access_key_account(server: str) -> str:
    """What a developer's access key for a gateway is kept under."""
    return f"access-key@{server}"


def store_token(account: str, secret: str, *, insecure: bool, noun: str = "token", instead: str = _PRINTED) -> str:
    """Keep a token in the system's keyring, or with `insecure` in a file of mode 0600; where it went.

    Raises:
        AuthError: there is no keyring; nothing was written anywhere.
    """
    if insecure:
        with _locked(credentials_path()) as path:
            _write_file(path, _read_file(path) | {account: secret})
        _forget_in_keyring(account)  # it would be found first
        return str(credentials_path())
    try:
        _with_keyring(lambda keyring: keyring.set_password(SERVICE, account, secret))
        _forget_in_file(account)
    except KeyringUnavailable as error:
        raise _not_stored(error, noun, instead) from error
    return "the keyring"


def check_keyring() -> None:
    """Find out whether a token could be stored, before somebody types a password for it.

    Raises:
        AuthError: as `store_token`.
    """
    try:
        _with_keyring(lambda keyring: keyring.get_password(SERVICE, "check"))
    except KeyringUnavailable as error:
        raise AuthError(
            f"nobody was signed in, since the token was not stored: {error}", hint=_hint(_PRINTED)
        ) from error


def _hint(instead: str) -> str:
    return f"{instead}      or --insecure-storage for a file of mode 0600"


def _not_stored(error: "KeyringUnavailable", noun: str, instead: str) -> AuthError:
    return AuthError(f"the {noun} was not stored: {error}", hint=_hint(instead))


def forget_token(account: str) -> bool:
    """Remove the token from keyring and file; whether there was one."""
    in_keyring, in_file = _forget_in_keyring(account), _forget_in_file(account)
    return in_keyring or in_file


def _forget_in_keyring(account: str) -> bool:
    try:
        if _with_keyring(lambda keyring: keyring.get_password(SERVICE, account)) is None:
            return False
        _with_keyring(lambda keyring: keyring.delete_password(SERVICE, account))
    except KeyringUnavailable:
        return False
    return True


def _forget_in_file(account: str) -> bool:
    if not credentials_path().exists():
        return False
    with _locked(credentials_path()) as path:
        stored = _read_file(path)
        if stored.pop(account, None) is None:
            return False
        _write_file(path, stored)
    return True


def credentials_path() -> Path:
    """Where tokens are when the user chose a file."""
    from proxyctl.profiles import config_path

    return config_path().with_name("credentials.json")


def read_secret_file(path: str) -> str:
    """A secret from a file, or from standard input for `-`.

    Raises:
        UsageError: others can read or replace it: a wide mode, somebody else's file, a symbolic link.
    """
    if path == "-":
        return sys.stdin.read().removesuffix("\n")
    try:
        status = Path(path).stat()
        is_pipe = stat.S_ISFIFO(status.st_mode)  # <(command)
        if not is_pipe:
            _check_private(path, status)
        return Path(path).read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, UnicodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error


def _check_private(path: str, status: os.stat_result) -> None:
    if Path(path).is_symlink():
        raise UsageError(
            f"{path} is a symbolic link: whoever owns the link chooses the file", hint="name the file itself"
        )
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{path} is not a file")
    if status.st_uid not in (os.geteuid(), 0):
        raise UsageError(f"{path} belongs to somebody else")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise UsageError(f"{path} can be read by others", hint=f"chmod 600 {path}")


def _read_file(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    try:
        document = json.loads(read_secret_file(str(path)))
    except ValueError:
        document = None
    if not isinstance(document, dict) or not all(isinstance(value, str) for value in document.values()):
        raise UsageError(f"{path} is not a credentials file", hint="remove it and sign in again")
    return document


def _write_file(path: Path, tokens: dict[str, str]) -> None:
    from proxyctl.profiles import write_private

    write_private(path, json.dumps(tokens, indent=2) + "\n")


@contextmanager
def _locked(path: Path) -> Iterator[Path]:
    """One process at a time changes the file."""
    import fcntl

    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield path


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
