"""The OpenAPI document: what FastAPI derives from the routes, and the credentials, errors, examples it cannot know."""

from typing import Any

from fastapi import FastAPI

from daemon.admin.examples import EXAMPLES
from daemon.admin.scopes import NEEDS, PUBLIC
from daemon.contract.common import ErrorAnswer

TAGS = {
    "auth": "Signing in and out: a session for a person, in a token or in a cookie.",
    "users": "The people and machines whose requests are counted.",
    "access keys": "What a client authenticates with. A key is shown once.",
    "budgets": "What users may spend in a period.",
    "bedrock keys": "The AWS credentials an access key's requests go to Amazon Bedrock with. Nothing shows them again.",
    "models": "Which model on Amazon Bedrock stands in for which model of the client.",
    "pricing": "Prices of models, per million tokens.",
    "circuits": "Providers that are left alone for a while because they failed.",
    "compatibility": "What was learned about what providers do not take.",
    "usage": "The ledger and its sums.",
    "service tokens": "Service tokens: what CI signs in with. A token is shown once.",
    "system": "The audit log, and the daemon about itself.",
}
_ERROR = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}}
_WHY = {
    "400": "The request cannot be read: its syntax, its headers, a field written twice.",
    "401": "Nobody is signed in.",
    "403": "The credential is not allowed to do this, or the request does not come from our own pages.",
    "404": "There is no such object.",
    "409": "It exists already, has changed since it was read (If-Match), or cannot be done in its state.",
    "413": "The body or a header is too large.",
    "422": "A field's value is refused; `field` names it.",
    "429": "Too many attempts; `retry-after` says when.",
    "503": "The database, or what else is needed, cannot be reached; `retry-after` says when to try again.",
}
_IDEMPOTENCY_KEY = {
    "name": "idempotency-key",
    "in": "header",
    "required": False,
    "description": "A text of your own: the same request with the same key is done once in a day.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}


def complete(app: FastAPI) -> dict[str, Any]:
    """The document of an application, made once and kept by it."""
    if app.openapi_schema is not None:
        return app.openapi_schema
    document = FastAPI.openapi(app)
    components = document["components"]
    schemas: dict[str, Any] = components["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    error = ErrorAnswer.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= error.pop("$defs") | {"ErrorAnswer": error}
    for name, example in EXAMPLES.items():
        schemas[name]["examples"] = [example]
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "A session's token, or a service token `pt_…`."},
        "cookie": {"type": "apiKey", "in": "cookie", "name": "__Host-proxyctl-session"},
        "password": {"type": "http", "scheme": "basic", "description": "The admin's name and password."},
    }
    document["tags"] = [{"name": name, "description": text} for name, text in TAGS.items()]
    for path, item in document["paths"].items():
        for method, operation in item.items():
            _complete_operation(operation, method, path)
    return document


def _complete_operation(operation: dict[str, Any], method: str, path: str) -> None:
    need = NEEDS.get(f"{method.upper()} {path}", "admin")
    is_public = need == PUBLIC
    operation["security"] = [{"password": []}] if is_public else [{"bearer": []}, {"cookie": []}]
    if not is_public:
        operation["x-scope"] = need
    if method == "post" and not is_public:
        operation.setdefault("parameters", []).append(_IDEMPOTENCY_KEY)
    statuses = ["400", "401", "403", "413", "422", "429", "503"]
    if "{" in path or any(parameter["name"].endswith("_id") for parameter in operation.get("parameters", [])):
        statuses.append("404")
    if method != "get":
        statuses.append("409")
    responses = operation["responses"]
    responses.pop("422", None)
    for status in sorted(statuses):
        responses[status] = {"description": _WHY[status], "content": _ERROR}
