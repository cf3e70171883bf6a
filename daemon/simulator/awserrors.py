"""Errors of AWS, in the form each of the two routes gives them."""

from typing import Any

from daemon.simulator.answers import error
from daemon.simulator.script import Step

STATUSES = {
    "ValidationException": 400,
    "IncompleteSignatureException": 400,
    "ServiceQuotaExceededException": 400,
    "AccessDeniedException": 403,
    "MissingAuthenticationTokenException": 403,
    "UnrecognizedClientException": 403,
    "InvalidSignatureException": 403,
    "ExpiredTokenException": 403,
    "ResourceNotFoundException": 404,
    "ModelTimeoutException": 408,
    "RequestEntityTooLargeException": 413,
    "ModelErrorException": 424,
    "ModelStreamErrorException": 424,
    "ThrottlingException": 429,
    "ModelNotReadyException": 429,
    "InternalServerException": 500,
    "ServiceUnavailableException": 503,
}
_BY_STATUS = {
    400: "ValidationException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    408: "ModelTimeoutException",
    413: "RequestEntityTooLargeException",
    424: "ModelErrorException",
    429: "ThrottlingException",
    500: "InternalServerException",
    503: "ServiceUnavailableException",
}
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}
_MESSAGES = {
    "ThrottlingException": "Too many tokens, please wait before trying again.",
    "ServiceUnavailableException": "Bedrock is unable to process your request.",
    "ModelNotReadyException": "The model is not ready for inference.",
    "AccessDeniedException": "You don't have access to the model with the specified model ID.",
    "ExpiredTokenException": "The security token included in the request is expired",
    "UnrecognizedClientException": "The security token included in the request is invalid.",
}
_DEFAULT = Step().message


def scripted_error(step: Step) -> tuple[int, str, str] | None:
    """Status, AWS name and message of the failure a script asks for, if it asks for one."""
    if step.aws_error is None and step.status == 200:
        return None
    name = step.aws_error or _BY_STATUS.get(step.status, "InternalServerException")
    status = step.status if step.status != 200 else STATUSES.get(name, 500)
    return status, name, message_of(step, name)


def message_of(step: Step, name: str) -> str:
    """The message of the script, or what AWS says with an error of this name."""
    return _MESSAGES.get(name, step.message) if step.message == _DEFAULT else step.message


def envelope(status: int, text: str) -> dict[str, Any]:
    """An error as the Messages route words it."""
    return error(_TYPES.get(status, "api_error"), text)


def aws_body(name: str, text: str) -> tuple[dict[str, str], tuple[str, str]]:
    """An error as the other routes word it: body, and the header that names it."""
    kind = f"{name}:http://internal.amazon.com/coral/com.amazon.bedrock/"
    return {"message": text}, ("x-amzn-ErrorType", kind)
