"""Errors of the admin API: one shape, one place."""

from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from daemon.contract.common import ErrorAnswer, ErrorDetail
from daemon.services.errors import Invalid, Malformed, NotFound, ServiceError

_TYPES = {404: "not_found", 405: "method_not_allowed", 413: "too_large", 415: "unsupported_media_type"}
_MESSAGES = {404: "there is nothing at this path", 405: "this path does not have that method"}


def error_answer(
    status: int,
    kind: str,
    message: str,
    *,
    request_id: str,
    field: str | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """An error in the one shape."""
    answer = ErrorAnswer(error=ErrorDetail(type=kind, message=message, field=field), request_id=request_id)
    return JSONResponse(answer.model_dump(), status_code=status, headers=headers)


def refusal(error: ServiceError, request_id: str) -> JSONResponse:
    """A service's refusal as an answer."""
    headers = {"retry-after": str(error.retry_after)} if error.retry_after is not None else None
    return error_answer(
        error.status, error.type, error.message, request_id=request_id, field=error.field, headers=headers
    )


async def on_http_error(request: Request, error: Exception) -> Response:
    """The framework's own errors: no such path, no such method, a body that cannot be read."""
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, ServiceError):  # raised while the body was read; the framework wraps it
        return refusal(error.__cause__, request.state.request_id)
    kind = _TYPES.get(error.status_code, "bad_request")
    message = _MESSAGES.get(error.status_code, "the request cannot be understood")
    return error_answer(
        error.status_code,
        kind,
        message,
        request_id=request.state.request_id,
        headers=dict(error.headers) if error.headers else None,
    )


async def on_invalid(request: Request, error: Exception) -> Response:
    """A request that does not fit its model: names the first field and says why; never quotes the value."""
    assert isinstance(error, RequestValidationError)
    return refusal(_first(list(error.errors())), request.state.request_id)


def _first(problems: list[Any]) -> ServiceError:
    problem = problems[0]
    where, *inside = problem["loc"]
    field = ".".join(str(part) for part in inside) or None
    if problem["type"] == "json_invalid":
        return Malformed("the body is not JSON")
    if where == "path":
        return NotFound("there is no object with this id")
    if problem["type"] == "extra_forbidden":
        return Invalid("is not a known field", field=field)
    if field is None:
        return Invalid("expected a JSON object with content-type application/json")
    message = str(problem["msg"]).removeprefix("Value error, ")
    return Invalid(message[:1].lower() + message[1:], field=field)
