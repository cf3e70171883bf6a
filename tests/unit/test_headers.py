"""Which headers pass in either direction, and where credentials go."""

import pytest

from daemon.core.identity import Conflict, KeyFound, NoKey, find_access_key, make_access_key, make_service_token
from daemon.protocol.headers import has_own_credential, request_headers, response_headers

KEY, OTHER = (make_access_key(bytes([number]) * 32) for number in (1, 2))
IDENTITY = (b"accept-encoding", b"identity")
PASSES = [
    (b"user-agent", b"claude-cli/2.1.330 (external, cli)"),
    (b"accept", b"application/json"),
    (b"content-type", b"application/json"),
    (b"x-app", b"cli"),
    (b"x-stainless-retry-count", b"0"),
    (b"anthropic-version", b"2023-06-01"),
    (b"anthropic-beta", b"a-2026-01-01,b"),
    (b"anthropic-beta", b"a second line"),
    (b"anthropic-of-tomorrow", b"\xff\xfe"),
    (b"x-claude-code-session-id", b"s-1"),
    (b"x-claude-code-agent-id", b"a-1"),
]


def test_the_clients_headers_pass_in_order_and_unchanged() -> None:
    assert request_headers(PASSES, access_key=KEY, plan_api_key=None) == [*PASSES, IDENTITY]


@pytest.mark.parametrize(
    "name",
    [
        b"connection",
        b"keep-alive",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"proxy-authorization",
        b"proxy-connection",
        b"host",
        b"content-length",
        b"cookie",
        b"expect",
        b"forwarded",
        b"x-forwarded-for",
        b"x-forwarded-of-tomorrow",
        b"x-real-ip",
        b"x-proxy-key",
        b"x-proxy-anything",
        b"accept-encoding",
    ],
)
def test_a_header_of_this_hop_or_of_ours_does_not_pass(name: bytes) -> None:
    assert request_headers([(name, b"x")], access_key=KEY, plan_api_key=None) == [IDENTITY]


def test_headers_named_by_any_connection_line_do_not_pass() -> None:
    sent = [
        (b"connection", b"keep-alive, X-One"),
        (b"x-one", b"1"),
        (b"connection", b"x-two"),
        (b"x-two", b"2"),
        (b"x-three", b"3"),
    ]
    assert request_headers(sent, access_key=None, plan_api_key=None) == [(b"x-three", b"3"), IDENTITY]
    assert response_headers(sent, shared_credential=True) == [(b"x-three", b"3")]


def test_connection_cannot_take_away_what_the_provider_needs() -> None:
    needed = [(b"content-type", b"application/json"), (b"authorization", b"Bearer sk-ant-oat-1")]
    sent = [*needed, (b"connection", b"content-type, authorization, x-api-key, close")]
    assert request_headers(sent, access_key=None, plan_api_key="sk-ant-shared") == [*needed, IDENTITY]


@pytest.mark.parametrize(
    "carrier",
    [
        (b"x-proxy-key", KEY.encode()),
        (b"x-api-key", KEY.encode()),
        (b"authorization", b"Bearer " + KEY.encode()),
        (b"referer", b"http://gateway/ak/" + KEY.encode() + b"/v1"),
    ],
)
def test_our_key_never_goes_to_the_provider(carrier: tuple[bytes, bytes]) -> None:
    assert request_headers([carrier], access_key=KEY, plan_api_key=None) == [IDENTITY]
    shared = request_headers([carrier], access_key=KEY, plan_api_key="sk-ant-shared")
    assert shared == [(b"x-api-key", b"sk-ant-shared"), IDENTITY]
    assert not has_own_credential([carrier], access_key=KEY)


@pytest.mark.parametrize("own", [(b"authorization", b"Bearer sk-ant-oat-1"), (b"x-api-key", b"sk-ant-api-1")])
def test_the_clients_own_login_wins_over_the_shared_key(own: tuple[bytes, bytes]) -> None:
    sent = [(b"x-proxy-key", KEY.encode()), own, (b"anthropic-beta", b"oauth-2025-04-20")]
    kept = [own, (b"anthropic-beta", b"oauth-2025-04-20"), IDENTITY]
    assert request_headers(sent, access_key=KEY, plan_api_key="sk-ant-shared") == kept
    assert has_own_credential(sent, access_key=KEY)


def test_an_empty_credential_is_none() -> None:
    sent = [(b"x-api-key", b" "), (b"accept", b"*/*")]
    assert not has_own_credential(sent, access_key=KEY)
    assert request_headers(sent, access_key=KEY, plan_api_key="sk-ant-shared") == [
        (b"accept", b"*/*"),
        (b"x-api-key", b"sk-ant-shared"),
        IDENTITY,
    ]


@pytest.mark.parametrize("value", [b"Bearer  %s", b"bearer %s ", b"BEARER\x20\x20\x20%s"])
def test_a_key_is_found_behind_any_blanks(value: bytes) -> None:
    assert find_access_key(None, [(b"authorization", value % KEY.encode())]) == KeyFound(KEY)
    assert find_access_key(OTHER, [(b"authorization", value % KEY.encode())]) == Conflict()


def test_what_is_too_long_or_not_ours_is_no_key() -> None:
    assert find_access_key(None, [(b"x-api-key", b"ak_" + b"x" * 254)]) == NoKey()
    assert find_access_key(None, [(b"authorization", b"Bearer sk-ant-oat-1"), (b"x-api-key", b"")]) == NoKey()
    assert find_access_key(None, []) == NoKey()


def test_the_first_place_wins_when_all_name_the_same_key() -> None:
    everywhere = [
        (b"authorization", b"Bearer " + KEY.encode()),
        (b"x-api-key", KEY.encode()),
        (b"x-proxy-key", KEY.encode()),
    ]
    assert find_access_key(KEY, everywhere) == KeyFound(KEY)
    for name, _ in everywhere:
        differs = [(n, v.replace(KEY.encode(), OTHER.encode()) if n == name else v) for n, v in everywhere]
        assert find_access_key(KEY, differs) == Conflict()


def test_the_providers_headers_pass_but_for_this_hops_and_ours() -> None:
    passes = [
        (b"content-type", b"text/event-stream"),
        (b"retry-after", b"7"),
        (b"x-should-retry", b"false"),
        (b"cf-ray", b"1"),
        (b"header-of-tomorrow", b"1"),
    ]
    stays = [
        (b"content-length", b"5"),
        (b"transfer-encoding", b"chunked"),
        (b"connection", b"keep-alive"),
        (b"request-id", b"req_upstream"),
        (b"set-cookie", b"a=b"),
        (b"x-proxy-upstream-request-id", b"forged"),
    ]
    assert response_headers([*stays, *passes], shared_credential=True) == passes


def test_rate_limits_of_a_shared_credential_stay_with_us() -> None:
    limit = (b"anthropic-ratelimit-unified-status", b"allowed")
    assert response_headers([limit], shared_credential=True) == []
    assert response_headers([limit], shared_credential=False) == [limit]


def test_a_service_token_is_no_credential_of_the_clients_own_and_goes_nowhere() -> None:
    token = make_service_token(bytes(32))
    bearer = [(b"authorization", f"Bearer {token}".encode())]
    assert find_access_key(None, bearer) == KeyFound(token)  # and is then refused: it is no access key
    assert find_access_key(KEY, bearer) == Conflict()
