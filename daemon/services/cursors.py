"""Cursors of lists: opaque to the client, checked when they come back."""

import base64
import binascii
from datetime import UTC, datetime, timedelta
from uuid import UUID

from daemon.services.errors import Invalid

_FORGED = "is not a cursor of this list"
_LARGEST = 2**63 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def encode(position: UUID | int) -> str:
    """The cursor that continues after the row at `position`."""
    return base64.urlsafe_b64encode(str(position).encode()).decode().rstrip("=")


def decode_id(cursor: str | None) -> UUID | None:
    """The id a cursor stands for.

    Raises:
        Invalid: it is not one of ours.
    """
    try:
        return None if cursor is None else UUID(_text(cursor))
    except ValueError:
        raise Invalid(_FORGED, field="cursor") from None


def decode_number(cursor: str | None) -> int | None:
    """The row number a cursor stands for.

    Raises:
        Invalid: it is not one of ours.
    """
    if cursor is None:
        return None
    text = _text(cursor)
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= _LARGEST):
        raise Invalid(_FORGED, field="cursor")
    return int(text)


def encode_moment(instant: datetime, row: int) -> str:
    """The cursor that continues after a row of an instant."""
    microseconds = (instant - _EPOCH) // timedelta(microseconds=1)
    return base64.urlsafe_b64encode(f"{microseconds}.{row}".encode()).decode().rstrip("=")


def decode_moment(cursor: str | None) -> tuple[datetime, int] | None:
    """The instant and the row a cursor stands for.

    Raises:
        Invalid: it is not one of ours.
    """
    if cursor is None:
        return None
    parts = _text(cursor).split(".")
    if len(parts) != 2 or not all(part.isdigit() and len(part) < 19 for part in parts):
        raise Invalid(_FORGED, field="cursor")
    try:
        return _EPOCH + timedelta(microseconds=int(parts[0])), int(parts[1])
    except OverflowError:
        raise Invalid(_FORGED, field="cursor") from None


def _text(cursor: str) -> str:
    try:
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        raise Invalid(_FORGED, field="cursor") from None
