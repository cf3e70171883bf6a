"""Signing in and out."""

import base64
import binascii

from fastapi import APIRouter, Request, Response

from daemon.admin.bodies import StrictRoute
from daemon.admin.deps import TheActor, TheServices
from daemon.admin.edge import authorization
from daemon.contract.auth import AccessToken, Session
from daemon.services.errors import TooLarge, Unauthenticated

router = APIRouter(prefix="/admin/auth", tags=["auth"], route_class=StrictRoute)
_LONGEST = 8192


@router.post("/login")
async def sign_in(request: Request, services: TheServices, actor: TheActor) -> AccessToken:
    """Exchange the admin's name and password (HTTP Basic) for a session."""
    username, password = _basic(authorization(request))
    return await services.sign_in.sign_in(username, password, actor)


@router.get("/session")
async def get_session(request: Request) -> Session:
    """Who is signed in, and until when."""
    session = request.state.session
    assert isinstance(session, Session)
    return session


@router.delete("/session", status_code=204, response_class=Response)
async def sign_out(services: TheServices, actor: TheActor) -> None:
    """End all sessions of the admin."""
    await services.sign_in.sign_out(actor)


def _basic(header: str) -> tuple[str, str]:
    if len(header) > _LONGEST:
        raise TooLarge("the authorization header is too long")
    scheme, _, encoded = header.partition(" ")
    try:
        text = base64.b64decode(encoded.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        raise Unauthenticated("expected HTTP Basic credentials") from None
    username, colon, password = text.partition(":")
    if scheme.lower() != "basic" or not colon:
        raise Unauthenticated("expected HTTP Basic credentials")
    return username, password
