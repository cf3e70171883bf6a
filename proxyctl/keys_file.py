"""The file that new access keys are written to: nobody else can read it, and a key that was made is in it."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress

from proxyctl.errors import CliError


class KeysFile:
    """A new JSON file `{"user/key": secret}`; whatever happens, it holds all keys until then."""

    def __init__(self, path: str) -> None:
        """Make the file, before there is a key that could be lost."""
        self.path = path
        self._keys: dict[str, str] = {}
        try:
            self._make(path)
        except FileExistsError:
            raise CliError(
                f"{path} exists already, nothing was changed", hint="name a new file; that one may hold keys"
            ) from None
        except OSError as error:
            raise CliError(f"{path} cannot be made, nothing was changed: {error.strerror}") from error

    def add(self, name: str, secret: str) -> None:
        """Keep one more key: the file is replaced as a whole, and on the disk before this returns."""
        self._keys[name] = secret
        fresh = f"{self.path}.{os.getpid()}.new"
        try:
            self._make(fresh)
            os.replace(fresh, self.path)  # noqa: PTH105
        except OSError as error:
            with suppress(OSError):
                os.unlink(fresh)  # noqa: PTH108
            raise CliError(
                f"the key {name} exists, but {self.path} cannot be written: {error.strerror}",
                hint=f"proxyctl keys rotate {name} --output-file PATH",
            ) from error

    def forget_if_empty(self) -> None:
        """Leave no file behind that holds nothing."""
        if not self._keys:
            with suppress(OSError):
                os.unlink(self.path)  # noqa: PTH108

    @property
    def keys(self) -> Mapping[str, str]:
        return self._keys

    def _make(self, path: str) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(self._keys, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
