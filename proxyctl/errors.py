"""Why a command fails, and the exit code that says so.

CliError
├── UsageError (2)         what was typed cannot be done
├── NotFoundError (3)
├── AuthError (4)          not signed in, or not allowed
├── ConflictError (5)
├── UnreachableError (6)   no daemon, or no answer in time: safe to try again
└── RefusedError (7)       the daemon refused a value
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """What a script can rely on."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    AUTH = 4
    CONFLICT = 5
    UNREACHABLE = 6
    REFUSED = 7
    DIFFERENT = 8
    INTERRUPTED = 130


class CliError(Exception):
    """A failure for a person: one sentence, and a hint that can be pasted."""

    exit_code = ExitCode.FAILED
    type = "failed"

    def __init__(self, message: str, *, hint: str | None = None, request_id: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.request_id = request_id


class UsageError(CliError):
    exit_code, type = ExitCode.USAGE, "usage"


class NotFoundError(CliError):
    exit_code, type = ExitCode.NOT_FOUND, "not_found"


class AuthError(CliError):
    exit_code, type = ExitCode.AUTH, "unauthenticated"


class ConflictError(CliError):
    exit_code, type = ExitCode.CONFLICT, "conflict"


class UnreachableError(CliError):
    exit_code, type = ExitCode.UNREACHABLE, "unreachable"


class RefusedError(CliError):
    exit_code, type = ExitCode.REFUSED, "invalid"
