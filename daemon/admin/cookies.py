"""The cookie of a browser's session, and the proof that a request which changes something comes from our own pages.

`__Host-proxyctl-session` is `Secure`: browsers keep it for HTTPS, and not all of them for http://127.0.0.1. A page that
was itself loaded from a loopback address over plain HTTP therefore gets a cookie without `Secure` and under another
name, and that name is believed on loopback only. Plain HTTP anywhere else gets the `Secure` cookie, which the browser
drops: there is no signing in without TLS.
"""

import ipaddress
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

SECURE_NAME = "__Host-proxyctl-session"
LOOPBACK_NAME = "proxyctl-session"
PROOF_HEADER = "x-proxyctl-request"  # any value: another site's page cannot send it without asking us first


def session_cookie(request: Request) -> str | None:
    """The session that a browser sends, if it does."""
    cookies = request.cookies
    if SECURE_NAME in cookies:
        return cookies[SECURE_NAME]
    if _is_loopback(urlsplit(f"//{request.headers.get('host', '')}").hostname):
        return cookies.get(LOOPBACK_NAME)
    return None


def set_session(request: Request, response: Response, secret: str, seconds: int) -> None:
    """Give a browser its session."""
    origin = urlsplit(request.headers.get("origin", ""))
    is_local = origin.scheme == "http" and _is_loopback(origin.hostname)
    response.set_cookie(
        LOOPBACK_NAME if is_local else SECURE_NAME,
        secret,
        max_age=seconds,
        path="/",
        secure=not is_local,
        httponly=True,
        samesite="strict",
    )


def clear_session(response: Response) -> None:
    """Take it away again."""
    response.delete_cookie(SECURE_NAME, path="/", secure=True, httponly=True, samesite="strict")
    response.delete_cookie(LOOPBACK_NAME, path="/", httponly=True, samesite="strict")


def is_from_our_pages(request: Request) -> bool:
    """Whether no other site's page can have sent this: by Sec-Fetch-Site, else by Origin, else by our own header."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin, host = request.headers.get("origin"), request.headers.get("host")
    if origin is not None and host and urlsplit(origin).netloc == host:
        return True
    return PROOF_HEADER in request.headers


def _is_loopback(host: str | None) -> bool:
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return host == "localhost"
