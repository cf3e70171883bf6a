"""What every answer and request of the admin API shares."""

import unicodedata
from datetime import UTC, datetime
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, StringConstraints

ItemT = TypeVar("ItemT")

RoutingStrategy = Literal["plan_first", "plan_only", "bedrock_first", "bedrock_only"]
Result = Literal["created", "rotated"]


class Answer(BaseModel):
    """Base of what the daemon sends. A client ignores fields it does not know: the API only grows."""

    model_config = ConfigDict(extra="ignore")


class Request(BaseModel):
    """Base of what a client sends. Unknown fields are refused: a typing error must not pass for success."""

    model_config = ConfigDict(extra="forbid", strict=True)


def _plain_text(text: str) -> str:
    # Cc control, Cf format (bidirectional overrides among them), Cs surrogates, Zl and Zp line separators
    if any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") for character in text):
        raise ValueError("must not contain control characters")
    return text


def _utc(instant: datetime) -> datetime:
    try:
        return instant.astimezone(UTC)
    except OverflowError:
        raise ValueError("is outside the calendar") from None


Name = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=128), AfterValidator(_plain_text)
]
Label = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=128), AfterValidator(_plain_text)
]
Description = Annotated[str, StringConstraints(strip_whitespace=True, max_length=512), AfterValidator(_plain_text)]
Instant = Annotated[AwareDatetime, AfterValidator(_utc)]


class Page(Answer, Generic[ItemT]):
    """One page of a list; `next_cursor` asks for the next one, None on the last."""

    items: list[ItemT]
    next_cursor: str | None = None


class ErrorDetail(Answer):
    """What went wrong, in a word for programs, a sentence for people, and the field it is about."""

    type: str
    message: str
    field: str | None = None


class ErrorAnswer(Answer):
    """The one shape of every error of the admin API."""

    error: ErrorDetail
    request_id: str
