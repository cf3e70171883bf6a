"""Which headers pass, and which do not. Both lists name what is taken out: a header nobody has heard of passes."""

from collections.abc import Sequence

Headers = Sequence[tuple[bytes, bytes]]

_HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
_REQUEST_OUT = _HOP_BY_HOP | {
    b"host",
    b"content-length",
    b"cookie",
    b"expect",
    b"forwarded",
    b"x-real-ip",
    b"x-origin-verify",
    # Asked for as it is, so that usage can be read from the bytes that pass.
    b"accept-encoding",
}
_REQUEST_OUT_PREFIXES = (b"x-proxy-", b"x-forwarded-", b"anthropic-ratelimit-")
_RESPONSE_OUT = _HOP_BY_HOP | {b"content-length", b"request-id", b"set-cookie"}
_CREDENTIALS = (b"authorization", b"x-api-key")
_IDENTITY = (b"accept-encoding", b"identity")


def request_headers(headers: Headers, *, access_key: str | None, plan_api_key: str | None) -> list[tuple[bytes, bytes]]:
    """The headers for Anthropic: the client's own, without our key, and with the plan's key if it brought none."""
    ours = access_key.encode("latin-1") if access_key else None
    named = _named_by_connection(headers)
    kept = [
        (name, value)
        for name, value in headers
        if name not in _REQUEST_OUT
        and name not in named
        and not name.startswith(_REQUEST_OUT_PREFIXES)
        and (ours is None or ours not in value)
    ]
    if plan_api_key is not None and not has_own_credential(headers, access_key=access_key):
        kept = [pair for pair in kept if pair[0] not in _CREDENTIALS]
        kept.append((b"x-api-key", plan_api_key.encode()))
    kept.append(_IDENTITY)
    return kept


def has_own_credential(headers: Headers, *, access_key: str | None) -> bool:
    """Whether the client brought a credential for Anthropic besides our access key."""
    ours = access_key.encode("latin-1") if access_key else None
    return any(
        name in _CREDENTIALS and value.strip() and (ours is None or ours not in value) for name, value in headers
    )


def response_headers(headers: Headers, *, shared_credential: bool) -> list[tuple[bytes, bytes]]:
    """The provider's response headers for the client. The caller adds the request id and the length of the body.

    With a shared credential `anthropic-ratelimit-*` describes the organisation, which is not this client's business.
    """
    named = _named_by_connection(headers)
    return [
        (name, value)
        for name, value in headers
        if name not in _RESPONSE_OUT
        and name not in named
        and not name.startswith(b"x-proxy-")
        and not (shared_credential and name.startswith(b"anthropic-ratelimit-"))
    ]


def _named_by_connection(headers: Headers) -> frozenset[bytes]:
    """Headers that `Connection` declares to be for this hop, except those that carry meaning for everybody."""
    values = [value for name, value in headers if name == b"connection"]
    if not values or values == [b"keep-alive"]:
        return frozenset()
    listed = {token.strip().lower() for token in b",".join(values).split(b",")}
    return frozenset(listed - {b"close", b"keep-alive", b"content-type", *_CREDENTIALS})
