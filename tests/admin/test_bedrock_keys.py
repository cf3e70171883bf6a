"""Bedrock keys through the admin API: what is stored, what is refused, and that no secret comes out anywhere."""

import asyncio
import base64
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import httpx
import pytest
from sqlalchemy import select, update

from daemon.core.credentials import Ambient, ApiKey, AssumeRole, IamKeys
from daemon.security.envelope import Envelope, LocalCipher, SealBroken, SealUnavailable
from daemon.services.bedrock_keys import ProbeResult, open_credential
from daemon.store.epochs import read_all
from daemon.store.tables import access_keys, audit_log, bedrock_keys
from tests.admin.conftest import LOCAL_KEY, PROBED, Plane, new_key, new_user

SECRET = "ABSKc2VjcmV0LW9mLXRoaXMtdGVzdA=="
IAM_ID, TEMPORARY_ID = "AKIAIOSFODNN7EXAMPLE", "ASIAIOSFODNN7EXAMPLE"
IAM_SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
ROLE = "arn:aws:iam::123456789012:role/team/bedrock"
IAM = {"auth": "iam", "aws_access_key_id": IAM_ID, "aws_secret_access_key": IAM_SECRET}


def short_term(region: str = "us-west-2", date: str = "20260301T110000Z", expires: str = "43200", **more: str) -> str:
    """A short-term key as AWS's generator makes it."""
    query = {
        "Action": "CallWithBearerToken",
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{TEMPORARY_ID}/{date[:8]}/{region}/bedrock/aws4_request",
        "X-Amz-Date": date,
        "X-Amz-Expires": expires,
        "X-Amz-SignedHeaders": "host",
        "X-Amz-Security-Token": "IQoJb3JpZ2luX2VjE",
        "X-Amz-Signature": "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7",
        "Version": "1",
    } | more
    url = f"bedrock.amazonaws.com/?{urlencode(query)}"
    return "bedrock-api-key-" + base64.b64encode(url.encode()).decode()


@pytest.fixture
async def path(admin: httpx.AsyncClient) -> str:
    """Of the Bedrock key of a fresh access key."""
    key = await new_key(admin, (await new_user(admin))["id"])
    return f"/admin/access-keys/{key['id']}/bedrock-key"


async def _set(admin: httpx.AsyncClient, path: str, **body: Any) -> dict[str, Any]:
    answer = await admin.post(path, json=body)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def _rows(plane: Plane) -> list[Any]:
    async with plane.store.read() as connection:
        return list((await connection.execute(select(bedrock_keys).order_by(bedrock_keys.c.id))).all())


async def _epoch(plane: Plane) -> int:
    async with plane.store.read() as connection:
        return (await read_all(connection))["access"]


async def _opened(row: Any) -> Any:
    envelope = Envelope(LocalCipher(LOCAL_KEY))
    return await open_credential(envelope, row.sealed_secret, access_key_id=row.access_key_id, bedrock_key_id=row.id)


CREDENTIALS: list[tuple[dict[str, Any], Any]] = [
    ({"auth": "api_key", "api_key": SECRET}, ApiKey(SECRET)),
    ({"auth": "api_key", "api_key": short_term()}, ApiKey(short_term())),
    (IAM, IamKeys(IAM_ID, IAM_SECRET)),
    (IAM | {"aws_access_key_id": TEMPORARY_ID, "aws_session_token": "IQoJ/+="}, IamKeys(TEMPORARY_ID, IAM_SECRET, "IQoJ/+=")),
    ({"auth": "assume_role", "role_arn": ROLE}, AssumeRole(ROLE)),
    ({"auth": "assume_role", "role_arn": ROLE, "external_id": "ours-42"}, AssumeRole(ROLE, "ours-42")),
    ({"auth": "ambient"}, Ambient()),
]  # fmt: skip


@pytest.mark.parametrize(("body", "credential"), CREDENTIALS)
async def test_each_kind_is_kept_sealed_and_comes_out_as_it_went_in(
    plane: Plane, admin: httpx.AsyncClient, path: str, body: dict[str, Any], credential: Any, capfd: Any
) -> None:
    shown = await _set(admin, path, **body)
    assert (shown["auth"], shown["sealed_by"], shown["route"]) == (body["auth"], "local", "auto")
    assert (await admin.get(path)).json() == shown
    [row] = await _rows(plane)
    assert await _opened(row) == credential
    async with plane.store.read() as connection:
        audited = (await connection.execute(select(audit_log))).all()
    printed = capfd.readouterr()
    everything = repr(shown) + repr(row) + repr(audited) + printed.out + printed.err
    for name in ("api_key", "aws_secret_access_key", "aws_session_token", "external_id"):
        assert name not in body or body[name] not in everything


async def test_an_answer_says_what_an_operator_needs(admin: httpx.AsyncClient, path: str) -> None:
    iam = await _set(admin, path, **IAM, region="eu-central-1", route="invoke", profile="eu")
    assert (iam["region"], iam["route"], iam["profile"], iam["key_id_hint"]) == ("eu-central-1", "invoke", "eu", "MPLE")
    assert len(iam["fingerprint"]) == 16
    again = await _set(admin, path, **IAM)
    assert (again["fingerprint"], again["region"]) == (iam["fingerprint"], "eu-west-1")
    assert again["id"] != iam["id"]
    role = await _set(admin, path, auth="assume_role", role_arn=ROLE)
    assert (role["role_arn"], role["key_id_hint"]) == (ROLE, None)
    assert role["fingerprint"] != iam["fingerprint"]


async def test_a_short_term_key_says_where_and_until_when_it_works(admin: httpx.AsyncClient, path: str) -> None:
    shown = await _set(admin, path, auth="api_key", api_key=short_term())
    assert (shown["region"], shown["expires_at"]) == ("us-west-2", "2026-03-01T23:00:00Z")
    await _set(admin, path, auth="api_key", api_key=short_term(), region="us-west-2")


async def test_the_region_of_the_access_key_comes_before_the_installations(
    plane: Plane, admin: httpx.AsyncClient, path: str
) -> None:
    async with plane.store.write() as connection:
        await connection.execute(update(access_keys).values(bedrock_region="ap-northeast-1"))
    assert (await _set(admin, path, auth="ambient"))["region"] == "ap-northeast-1"


async def test_a_new_key_replaces_the_old_one_and_erases_it(plane: Plane, admin: httpx.AsyncClient, path: str) -> None:
    before = await _epoch(plane)
    await _set(admin, path, auth="api_key", api_key=SECRET)
    changes = len(plane.changes)
    await _set(admin, path, **IAM)
    new, old = sorted(await _rows(plane), key=lambda row: row.deleted_at is not None)
    assert (old.deleted_at, old.sealed_secret, new.deleted_at) == (plane.clock(), b"", None)
    assert (await _epoch(plane), len(plane.changes)) == (before + 2, changes + 1)
    audited = (await admin.get("/admin/audit", params={"action": "bedrock_key.set"})).json()["items"]
    assert [(entry["before"] or {}).get("auth_kind") for entry in audited] == ["api_key", None]
    assert {entry["object_id"] for entry in audited} == {path.split("/")[3]}


async def test_removing_twice_is_one_change(plane: Plane, admin: httpx.AsyncClient, path: str) -> None:
    await _set(admin, path, auth="api_key", api_key=SECRET)
    before = await _epoch(plane)
    assert [(await admin.delete(path)).status_code for _ in range(2)] == [204, 204]
    assert ((await admin.get(path)).status_code, await _epoch(plane)) == (404, before + 1)
    [row] = await _rows(plane)
    assert row.sealed_secret == b""
    audited = (await admin.get("/admin/audit", params={"action": "bedrock_key.remove"})).json()["items"]
    assert (len(audited), audited[0]["after"]) == (1, None)


async def test_two_operators_at_once_leave_one_key(plane: Plane, admin: httpx.AsyncClient, path: str) -> None:
    bodies = [{"auth": "api_key", "api_key": f"{SECRET}{n}"} for n in range(8)]
    answers = await asyncio.gather(*(admin.post(path, json=body) for body in bodies))
    assert [answer.status_code for answer in answers] == [201] * 8
    rows = await _rows(plane)
    assert (len(rows), sum(row.deleted_at is None for row in rows)) == (8, 1)


async def test_a_blob_moved_to_another_row_or_access_key_does_not_open(
    plane: Plane, admin: httpx.AsyncClient, path: str
) -> None:
    other = await new_key(admin, (await new_user(admin, "bob"))["id"])
    await _set(admin, path, auth="api_key", api_key=SECRET)
    await _set(admin, f"/admin/access-keys/{other['id']}/bedrock-key", auth="ambient")
    mine, theirs = await _rows(plane)
    envelope = Envelope(LocalCipher(LOCAL_KEY))
    for access_key_id, row_id in ((theirs.access_key_id, theirs.id), (mine.access_key_id, theirs.id), (theirs.access_key_id, mine.id)):  # fmt: skip
        with pytest.raises(SealBroken):
            await open_credential(envelope, mine.sealed_secret, access_key_id=access_key_id, bedrock_key_id=row_id)


def _api(key: str) -> dict[str, Any]:
    return {"auth": "api_key", "api_key": key}


MISTAKES: list[tuple[dict[str, Any], str, str]] = [
    (_api(""), "api_key", "is empty"),
    (_api(" \t\n"), "api_key", "is empty"),
    (_api("ABSKabc def"), "api_key", "contains a space"),
    (_api("ABSKabc\u00a0def"), "api_key", "contains a space"),
    (_api("ABSKabcdef\n"), "api_key", "contains a line break"),
    (_api("ABSKabc\r\ndef"), "api_key", "contains a line break"),
    (_api("ABSKäbc"), "api_key", "a character that no key has"),
    (_api("ABSKabc\x00"), "api_key", "a character that no key has"),
    (_api("ABSK" + "a" * 100_000), "api_key", "longer than 4096"),
    (_api("ABSK"), "api_key", "is cut off"),
    (_api("sk-ant-api03-abcdef"), "api_key", "is an Anthropic API key"),
    (_api("ak_3fK9abcdef"), "api_key", "is an access key of this gateway"),
    (_api(IAM_ID), "api_key", "register that one with auth iam"),
    (_api("secret"), "api_key", "does not begin as"),
    (_api("bedrock-api-key-%%%"), "api_key", "cannot be decoded"),
    (_api(short_term()[:-5]), "api_key", "cut off or changed"),
    (_api("bedrock-api-key-" + base64.b64encode(b"bedrock.amazonaws.com/?Action=x").decode()), "api_key", "signature"),
    (_api(short_term(date="20260301T110000Z", expires="3600")), "api_key", "expired at 2026-03-01T12:00:00Z"),
    (_api(short_term(date="99991231T235959Z")), "api_key", "signature is missing"),
    (_api(short_term(date="20261399T000000Z")), "api_key", "signature is missing"),
    (_api(short_term(expires="9" * 40)), "api_key", "signature is missing"),
    (_api(short_term(region="evil.example")), "api_key", "unknown region"),
    (_api(short_term()) | {"region": "us-east-1"}, "region", "works in us-west-2 only"),
    (_api(SECRET) | {"region": "evil.example/#"}, "region", "unknown region"),
    (_api(SECRET) | {"region": "us-east-1.attacker"}, "region", "unknown region"),
    (_api(SECRET) | {"region": ""}, "region", "unknown region"),
    (_api(SECRET) | {"region": "u" * 1024}, "region", "unknown region"),
    (_api(SECRET) | {"region": "us-east-１"}, "region", "unknown region"),
    (_api(SECRET) | {"route": "converse"}, "route", "input should be"),
    (_api(SECRET) | {"profile": "mars"}, "profile", "input should be"),
    (_api(SECRET) | {"role_arn": ROLE}, "role_arn", "does not belong to auth api_key"),
    ({"auth": "ambient", "api_key": SECRET}, "api_key", "does not belong to auth ambient"),
    ({"auth": "api_key"}, "api_key", "is required with auth api_key"),
    ({"auth": "api_key", "api_key": 7}, "api_key", "valid string"),
    ({"auth": "password"}, "auth", "input should be"),
    ({"auth": "ambient", "token": "x"}, "token", "is not a known field"),
    ({}, "auth", "field required"),
    ({"auth": "iam", "aws_access_key_id": IAM_ID}, "aws_secret_access_key", "is required with auth iam"),
    (IAM | {"aws_access_key_id": "AKIA123"}, "aws_access_key_id", "expected AKIA or ASIA"),
    (IAM | {"aws_access_key_id": IAM_ID.lower()}, "aws_access_key_id", "expected AKIA or ASIA"),
    (IAM | {"aws_access_key_id": IAM_ID + "\n"}, "aws_access_key_id", "line break"),
    (IAM | {"aws_secret_access_key": IAM_ID}, "aws_secret_access_key", "expected its secret"),
    (IAM | {"aws_secret_access_key": SECRET}, "aws_secret_access_key", "register that one with auth api_key"),
    (IAM | {"aws_secret_access_key": "sk-ant-x"}, "aws_secret_access_key", "Anthropic"),
    (IAM | {"aws_secret_access_key": "ak_x"}, "aws_secret_access_key", "of this gateway"),
    (IAM | {"aws_access_key_id": TEMPORARY_ID}, "aws_session_token", "is required: an ASIA"),
    (IAM | {"aws_session_token": "IQoJ"}, "aws_session_token", "not temporary"),
    ({"auth": "assume_role", "role_arn": "arn:aws:iam::12:role/x"}, "role_arn", "expected arn:aws:iam::"),
    ({"auth": "assume_role", "role_arn": ROLE + "\n"}, "role_arn", "line break"),
    ({"auth": "assume_role", "role_arn": "arn:aws:iam::123456789012:user/x"}, "role_arn", "expected arn:aws:iam::"),
    ({"auth": "assume_role", "role_arn": ROLE, "external_id": "x"}, "external_id", "expected 2 to 1224"),
]  # fmt: skip


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_each_mistake_is_named_and_not_quoted(plane: Plane, admin: httpx.AsyncClient, path: str) -> None:
    for body, field, says in MISTAKES:
        answer = await admin.post(path, json=body)
        error = answer.json()["error"]
        assert (answer.status_code, error["field"]) == (422, field), (body, answer.text)
        assert says in error["message"], (body, error)
        for secret in ("ABSK" + "a", "abcdef", IAM_SECRET, TEMPORARY_ID):
            assert secret not in answer.text
    assert await _rows(plane) == []


async def test_an_access_key_that_is_not_there_or_revoked_has_no_bedrock_key(
    plane: Plane, admin: httpx.AsyncClient, path: str
) -> None:
    await _set(admin, path, auth="ambient")
    assert (await admin.delete(path.removesuffix("/bedrock-key"))).status_code == 200
    for gone in (path, path.replace(path.split("/")[3], "0" * 32), path.replace(path.split("/")[3], "x")):
        answers = [
            await admin.post(gone, json={"auth": "ambient"}),
            await admin.get(gone),
            await admin.delete(gone),
            await admin.post(f"{gone}/test"),
        ]
        assert [answer.status_code for answer in answers] == [404] * 4
    assert len(await _rows(plane)) == 1


class _Away:
    """A cipher whose KMS does not answer, and which looks whether the store is held meanwhile."""

    mode = "kms"

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    async def seal(self, plaintext: bytes, context: Any) -> bytes:
        async with asyncio.timeout(1), self._plane.store.write():
            raise SealUnavailable("KMS did not answer in 2 s")

    async def open(self, blob: bytes, context: Any) -> bytes:
        raise NotImplementedError


async def test_while_kms_is_away_nothing_is_stored_and_the_old_key_stays(
    plane: Plane, admin: httpx.AsyncClient, path: str
) -> None:
    shown = await _set(admin, path, auth="ambient")
    plane.services.bedrock_keys._envelope = Envelope(_Away(plane))  # type: ignore[arg-type]
    answer = await admin.post(path, json=_api(SECRET))
    assert (answer.status_code, answer.json()["error"]["type"]) == (503, "unavailable")
    assert "KMS did not answer in 2 s" in answer.text
    assert "retry-after" in answer.headers
    assert (await admin.get(path)).json() == shown


async def test_without_a_key_to_seal_with_only_registering_fails_and_says_why(
    plane: Plane, admin: httpx.AsyncClient, path: str
) -> None:
    plane.services.bedrock_keys._envelope = Envelope(None)
    answer = await admin.post(path, json=_api(SECRET))
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, None)
    assert "set PROXY_KMS_KEY_ID or PROXY_LOCAL_ENCRYPTION_KEY" in answer.text
    assert (await admin.get(path)).status_code == 404


async def test_a_test_is_answered_and_audited(plane: Plane, admin: httpx.AsyncClient, path: str) -> None:
    assert (await admin.post(f"{path}/test")).status_code == 404
    await _set(admin, path, auth="ambient")
    worked = (await admin.post(f"{path}/test")).json()
    assert (worked["ok"], worked["cost_usd"], worked["bedrock_model"]) == (True, "0.000012000", PROBED.bedrock_model)

    async def refused(_: UUID) -> ProbeResult:
        return replace(PROBED, ok=False, status=403, message="AccessDeniedException: no model access")

    plane.services.bedrock_keys._probe = refused
    failed = await admin.post(f"{path}/test")
    assert (failed.status_code, failed.json()["ok"], failed.json()["status"]) == (200, False, 403)
    audited = (await admin.get("/admin/audit", params={"action": "bedrock_key.test"})).json()["items"]
    assert [entry["after"]["ok"] for entry in audited] == [False, True]


@pytest.mark.parametrize(("failure", "status"), [(SealBroken(), 409), (SealUnavailable("KMS is away"), 503)])
async def test_a_key_that_cannot_be_opened_is_no_failure_of_the_daemon(
    plane: Plane, admin: httpx.AsyncClient, path: str, failure: Exception, status: int
) -> None:
    async def probe(_: UUID) -> ProbeResult:
        raise failure

    await _set(admin, path, auth="ambient")
    plane.services.bedrock_keys._probe = probe
    answer = await admin.post(f"{path}/test")
    assert (answer.status_code, str(failure) in answer.text) == (status, True)


def test_what_is_sent_does_not_show_in_a_repr() -> None:
    from daemon.contract.bedrock_keys import BedrockKeySet

    wanted = BedrockKeySet.model_validate(
        {"auth": "iam", "aws_secret_access_key": IAM_SECRET, "external_id": "ours-42"}
    )
    assert IAM_SECRET not in repr(wanted)
    assert "ours-42" not in f"{wanted!r} {wanted}"
