"""Cursors of lists: opaque to the client, checked when they come back."""

import base64
import binascii
from uuid import UUID

from daemon.services.errors import Invalid

_FORGED = "is not a cursor of this list"
_LARGEST = 2**63 - 1


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


def _text(cursor: str) -> str:
    try:
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        raise Invalid(_FORGED, field="cursor") from None
