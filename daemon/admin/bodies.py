"""JSON bodies in which a field is written twice are refused: which of the two counts is anyone's guess."""

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from daemon.services.errors import Malformed


class _StrictRequest(Request):
    async def json(self) -> Any:
        try:
            return json.loads(await self.body(), object_pairs_hook=_unique, parse_constant=_no_constant)
        except (UnicodeDecodeError, RecursionError):
            raise Malformed("the body is not JSON") from None


class StrictRoute(APIRoute):
    """A route whose body is read strictly."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handler(_StrictRequest(request.scope, request.receive))

        return strict


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Malformed("is written twice", field=twice[:128])
    return found


def _no_constant(_: str) -> None:
    raise Malformed("the body is not JSON: NaN and Infinity are no JSON numbers")
