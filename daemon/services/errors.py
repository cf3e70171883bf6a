"""What a service may refuse. The admin API maps each to one status, in one place."""

from collections.abc import Mapping
from typing import Any


class ServiceError(Exception):
    """A refusal with a word for programs, a sentence for people and the field it is about."""

    type = "internal_error"
    status = 500

    def __init__(self, message: str, *, field: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.retry_after = retry_after


class Malformed(ServiceError):
    """The request is not in the form of one."""

    type = "bad_request"
    status = 400


class Unauthenticated(ServiceError):
    """Nobody is signed in, or not any more."""

    type = "unauthenticated"
    status = 401


class Forbidden(ServiceError):
    """Whoever is signed in may not do this."""

    type = "forbidden"
    status = 403


class NotFound(ServiceError):
    """There is no such object, or it has been deleted."""

    type = "not_found"
    status = 404


class Conflict(ServiceError):
    """The object exists already, or has changed since it was read."""

    type = "conflict"
    status = 409


class Invalid(ServiceError):
    """The value of a field is not acceptable."""

    type = "invalid"
    status = 422


class Throttled(ServiceError):
    """Too many attempts; `retry_after` says when the next one counts."""

    type = "too_many_requests"
    status = 429


class Unavailable(ServiceError):
    """The store is away."""

    type = "unavailable"
    status = 503


class TooLarge(ServiceError):
    """The request is larger than any the admin API needs."""

    type = "too_large"
    status = 413


def check_version(row: Mapping[Any, Any], version: int | None, noun: str) -> None:
    """Refuse a change that is meant for another version of what is there; None is meant for any."""
    if version is not None and version != row["version"]:
        raise Conflict(f"the {noun} has changed since it was read")
