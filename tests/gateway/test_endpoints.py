"""Who may ask what, in which form, and what a refusal looks like."""

import asyncio
import json

import pytest

from daemon.gateway import bodies
from daemon.gateway.bodies import BODY_LIMIT
from tests.gateway.test_relay import BODY, MESSAGE, PATH, answering, whole
from tests.support.plane import KEY, OTHER_KEY, UNKNOWN_KEY, Arrived, parts, plane, post

OK = answering(whole(200, json.dumps(MESSAGE).encode()))


def get(path: str, headers: dict[str, str] | None = None, method: str = "GET") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: test", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


@pytest.mark.parametrize(
    "headers",
    [
        {"x-proxy-key": KEY},
        {"x-api-key": KEY},
        {"authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer {KEY}", "x-api-key": KEY},
    ],
)
async def test_the_key_may_be_in_any_of_three_headers_and_never_goes_upstream(headers: dict[str, str]) -> None:
    async with plane(OK) as running:
        status, _, _ = parts(await running.ask(post("/v1/messages", BODY, headers)))
        assert status == 200
        [arrived] = running.provider.requests
        assert KEY not in arrived.head.decode("latin-1")


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/v1/messages", {}),
        ("/v1/messages", {"authorization": "Bearer"}),
        ("/v1/messages", {"authorization": "Basic YTpi"}),
        ("/v1/messages", {"authorization": "Bearer sk-ant-oat01-own"}),
        ("/v1/messages", {"x-api-key": UNKNOWN_KEY}),
        ("/v1/messages", {"x-api-key": KEY[:-1] + "x"}),
        ("/v1/messages", {"x-api-key": KEY.swapcase()}),
        ("/v1/messages", {"x-api-key": f"{KEY}\u00a0"}),
        ("/v1/messages", {"x-api-key": "ak_" + "a" * 9000}),
        ("/v1/messages", {"x-api-key": "' OR '1'='1"}),
        (f"/ak/{UNKNOWN_KEY}/v1/messages", {}),
        ("/ak/ak_short/v1/messages", {}),
        (f"/ak/{KEY}%20/v1/messages", {}),
        ("/ak//v1/messages", {}),
        (f"/ak/{UNKNOWN_KEY}/nowhere", {}),
    ],
)
async def test_every_bad_key_gets_the_same_answer_before_the_body_is_read(path: str, headers: dict[str, str]) -> None:
    async with plane(OK) as running:
        status, got, body = parts(await running.ask(post(path, BODY, headers)))
        assert status == 401
        assert got["x-should-retry"] == "false"
        assert json.loads(body) == {
            "type": "error",
            "error": {"type": "authentication_error", "message": "invalid access key"},
            "request_id": got["request-id"],
        }
        assert running.provider.requests == []


async def test_two_different_keys_are_a_conflict() -> None:
    async with plane(OK) as running:
        status, _, body = parts(await running.ask(post(PATH, BODY, {"x-proxy-key": OTHER_KEY})))
        assert (status, json.loads(body)["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "body"),
        (b"{", "body"),
        (b"[]", "array"),
        (b"null", "null"),
        (b'"x"', "string"),
        (b"1", "number"),
        (b'{"model":"m",}', "body"),
        (b'{"model":"m"}{"model":"m"}', "body"),
        (b'\xef\xbb\xbf{"model":"m"}', "body"),
        (b'{"model":"m" /* no */}', "body"),
        (b'{"model":"m","model":"n"}', "model"),
        (b'{"model":"m","stream":true,"stream":false}', "stream"),
        (b'{"model":"m","mod\\u0065l":"n"}', "model"),
        (b'{"model":"m","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "body"),
        (b'{"model":"m","x":NaN}', "body"),
        (b'{"model":"m","x":1e999}', "body"),
        (b'{"model":"m","x":' + b"9" * 10_000 + b"}", "body"),
        (b'{"model":"m","x":"\xff"}', "body"),
        (b"{}", "model"),
        (b'{"model":null}', "model"),
        (b'{"model":1}', "model"),
        (b'{"model":""}', "model"),
        (b'{"model":"' + b"m" * 10_000 + b'"}', "model"),
        (b'{"model":"a\\nb"}', "model"),
    ],
)
async def test_a_body_that_is_no_request_is_refused_by_name(body: bytes, word: str) -> None:
    async with plane(OK) as running:
        status, _, answer = parts(await running.ask(post(PATH, body)))
        error = json.loads(answer)["error"]
        assert (status, error["type"]) == (400, "invalid_request_error")
        assert word in error["message"]
        assert len(error["message"]) < 250
        assert running.provider.requests == []


@pytest.mark.parametrize(
    "extra",
    [
        {"max_tokens": 0},
        {"max_tokens": 10**12},
        {"max_tokens": "100"},
        {"stream": "true"},
        {"stream": None},
        {"messages": {}},
        {"messages": [{"role": "admin", "content": None}]},
        {"future_field": {"a": [1]}},
        {"metadata": {"user_id": "x\r\n<script>" * 100}},
        {"metadata": {"user_id": '{"session_id":"s\\u0000"}'}},
    ],
)
async def test_what_the_provider_has_to_judge_goes_to_the_provider(extra: dict[str, object]) -> None:
    body = json.dumps({"model": "some/../model?x=", **extra}).encode()
    async with plane(OK) as running:
        assert parts(await running.ask(post(PATH, body)))[0] == 200
        [arrived] = running.provider.requests
        assert arrived.body == body


async def test_a_body_over_the_limit_is_refused_from_its_announcement() -> None:
    async with plane(OK) as running:
        reader, writer = await running.raw(
            post(PATH, b"")[:-4].replace(b"Length: 0", b"Length: %d" % (BODY_LIMIT + 1)) + b"\r\n\r\n"
        )
        status, _, body = parts(await reader.read())
        writer.close()
        assert (status, json.loads(body)["error"]["type"]) == (413, "request_too_large")


async def test_a_chunked_body_over_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_LIMIT", 1000)
    head = f"POST {PATH} HTTP/1.1\r\nHost: t\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    async with plane(OK) as running:
        status, _, body = parts(await running.ask(head + b"7d0\r\n" + b"x" * 2000 + b"\r\n0\r\n\r\n"))
        assert (status, json.loads(body)["error"]["type"]) == (413, "request_too_large")


async def test_bodies_together_stay_within_their_budget() -> None:
    async with plane(OK, body_budget=10) as running:
        status, headers, body = parts(await running.ask(post(PATH, BODY)))
        assert (status, json.loads(body)["error"]["type"]) == (529, "overloaded_error")
        assert headers["retry-after"] == "2"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Encoding": "gzip"}, 415),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415),
        ({"Content-Type": "application/json; charset=utf-16"}, 400),
        ({"anthropic-beta": "b" * 9000}, 400),
    ],
)
async def test_forms_that_are_not_json_are_refused(headers: dict[str, str], status: int) -> None:
    request = post(PATH, BODY, headers)
    if "Content-Type" in headers:
        request = request.replace(b"Content-Type: application/json\r\n", b"")
    async with plane(OK) as running:
        assert parts(await running.ask(request))[0] == status


@pytest.mark.parametrize("kind", ["", "Content-Type: text/plain\r\n"])
async def test_json_without_its_content_type_is_json(kind: str) -> None:
    request = post(PATH, BODY).replace(b"Content-Type: application/json\r\n", kind.encode())
    async with plane(OK) as running:
        assert parts(await running.ask(request))[0] == 200


async def test_counting_and_listing_pass_and_are_not_on_the_books() -> None:
    async def answer(request: Arrived, writer: asyncio.StreamWriter) -> None:
        body = json.dumps({"target": request.target}).encode()
        writer.write(whole(200, body))

    async with plane(answer) as running:
        requests = {
            "/v1/messages/count_tokens?beta=true": post(f"/ak/{KEY}/v1/messages/count_tokens?beta=true", BODY),
            "/v1/models?limit=1000": get(f"/ak/{KEY}/v1/models?limit=1000"),
            "/v1/models/claude-opus-5-5": get("/v1/models/claude-opus-5-5", {"x-api-key": KEY}),
        }
        for target, request in requests.items():
            status, _, body = parts(await running.ask(request))
            assert (status, json.loads(body)) == (200, {"target": target})
        assert running.records == []


async def test_paths_and_methods_that_do_not_exist() -> None:
    async with plane(OK) as running:
        status, headers, body = parts(await running.ask(get(PATH)))
        assert (status, headers["allow"]) == (405, "POST")
        for path in ("/nowhere", "/v1/messages/", "//v1/messages", "/v1/files", "/v1/models/a/b"):
            status, _, body = parts(await running.ask(get(f"/ak/{KEY}{path}")))
            assert (status, json.loads(body)["error"]["type"]) == (404, "not_found_error")


async def test_hello_needs_no_key() -> None:
    async with plane(OK) as running:
        for path in ("/api/hello", f"/ak/{KEY}/api/hello"):
            status, _, body = parts(await running.ask(get(path, method="HEAD")))
            assert (status, body) == (200, b"")


async def test_usage_of_the_caller_is_never_stored_by_a_cache() -> None:
    async with plane(OK) as running:
        status, headers, body = parts(await running.ask(get(f"/ak/{KEY}/api/oauth/usage")))
        assert (status, headers["cache-control"], body) == (200, "no-store", b'{"limits":[]}')


async def test_without_any_credential_for_the_provider_the_operator_is_told() -> None:
    async with plane(OK, plan_api_key=None) as running:
        status, headers, body = parts(await running.ask(post(PATH, BODY)))
        assert (status, headers["x-should-retry"]) == (502, "false")
        assert "PROXY_PLAN_API_KEY" in json.loads(body)["error"]["message"]


async def test_a_query_that_carries_a_key_does_not_go_upstream() -> None:
    async with plane(OK) as running:
        await running.ask(post(f"/ak/{KEY}/v1/messages?key={KEY}", BODY))
        assert running.provider.requests[0].target == "/v1/messages"


async def test_headers_of_a_hop_and_of_the_gateway_do_not_pass() -> None:
    headers = {
        "Connection": "close, x-hop, x-api-key",
        "x-hop": "1",
        "cookie": "a=b",
        "x-forwarded-for": "10.0.0.1",
        "x-proxy-anything": "1",
        "anthropic-ratelimit-unified-status": "allowed",
        "x-api-key": "sk-ant-api03-the-clients-own",
        "x-stainless-arch": "x64",
        "accept-encoding": "gzip, br",
    }
    async with plane(OK) as running:
        await running.ask(post(PATH, BODY, headers, close=False))
        [arrived] = running.provider.requests
        assert arrived.headers["x-stainless-arch"] == "x64"
        assert arrived.headers["x-api-key"] == "sk-ant-api03-the-clients-own"
        assert arrived.headers["accept-encoding"] == "identity"
        assert not set(arrived.headers) & {"connection", "x-hop", "cookie", "x-forwarded-for", "x-proxy-anything"}
        assert "anthropic-ratelimit-unified-status" not in arrived.headers


async def test_rate_limits_of_a_shared_credential_are_not_shown() -> None:
    extra = "anthropic-ratelimit-requests-remaining: 5\r\nset-cookie: a=b\r\n"
    async with plane(answering(whole(200, json.dumps(MESSAGE).encode(), extra=extra))) as running:
        _, shared, _ = parts(await running.ask(post(PATH, BODY)))
        _, own, _ = parts(await running.ask(post(PATH, BODY, {"x-api-key": "sk-ant-api03-own"})))
        assert "anthropic-ratelimit-requests-remaining" not in shared
        assert own["anthropic-ratelimit-requests-remaining"] == "5"
        assert "set-cookie" not in own
