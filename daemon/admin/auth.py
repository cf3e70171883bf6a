"""Signing in and out."""

import base64
import binascii

from fastapi import APIRouter, Request, Response

from daemon.admin.bodies import StrictRoute
from daemon.admin.cookies import clear_session, is_from_our_pages, set_session
from daemon.admin.deps import TheActor, TheIdentity, TheServices
from daemon.admin.edge import authorization
from daemon.contract.auth import AccessToken, Session
from daemon.security.sessions import BEARER, COOKIE
from daemon.services.errors import Forbidden, TooLarge, Unauthenticated
from daemon.services.identity import Identity

router = APIRouter(prefix="/admin/auth", tags=["auth"], route_class=StrictRoute)
_LONGEST = 8192


@router.post("/login")
async def sign_in(request: Request, services: TheServices, actor: TheActor) -> AccessToken:
    """Exchange the admin's name and password (HTTP Basic) for a session."""
    username, password = _basic(authorization(request))
    started = await services.sign_in.sign_in(username, password, actor, BEARER)
    ends = started.identity.expires_at
    assert ends is not None
    return AccessToken(access_token=started.secret, expires_in=started.seconds, expires_at=ends)


@router.post("/session")
async def start_session(request: Request, response: Response, services: TheServices, actor: TheActor) -> Session:
    """Sign a browser in: the session is in a cookie that no script can read.

    With the admin's name and password (HTTP Basic), or with a service token (Bearer), which makes a viewer.
    """
    if not is_from_our_pages(request):
        raise Forbidden("signing in with a cookie is for pages of this origin")
    header = authorization(request)
    scheme, _, credential = header.partition(" ")
    if scheme.lower() == "bearer":
        started = await services.sessions.start_viewer(credential.strip(), actor)
    else:
        username, password = _basic(header)
        started = await services.sign_in.sign_in(username, password, actor, COOKIE)
    set_session(request, response, started.secret, started.seconds)
    return _shown(started.identity)


@router.get("/session")
async def get_session(identity: TheIdentity) -> Session:
    """Who is signed in, what they may do, and until when."""
    return _shown(identity)


@router.delete("/session", status_code=204, response_class=Response)
async def sign_out(services: TheServices, actor: TheActor, identity: TheIdentity) -> Response:
    """End all sessions of the admin; with a service token or as a viewer, those of browsers that signed in with it."""
    await services.sessions.end(identity, actor)
    response = Response(status_code=204)
    clear_session(response)
    return response


def _shown(identity: Identity) -> Session:
    return Session(
        username=identity.name, role=identity.role, scopes=sorted(identity.scopes), expires_at=identity.expires_at
    )


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
