"""What schemathesis makes of the OpenAPI document, sent to a real daemon: no failure of ours, nothing undocumented."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.core.failures import FailureGroup
from schemathesis.generation import GenerationMode

from daemon.admin.app import openapi_document
from daemon.contract import access_keys, auth, bedrock_keys, budgets, common, models, pricing, tokens, users
from tests.support.daemon import running_daemon

CASES = int(os.environ.get("FUZZ_CASES", "4"))  # for each operation and kind of data
NOWHERE = "http://127.0.0.1:9"
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
# Signing out and wrong passwords end the session that the rest is done with.
LEFT_OUT = ("DELETE /admin/auth/session", "POST /admin/auth/login", "POST /admin/auth/session")


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "invalid"])
async def test_whatever_is_sent_is_answered_as_documented(tmp_path: Path, mode: GenerationMode) -> None:
    async with running_daemon(tmp_path, NOWHERE) as daemon:
        await daemon.create_key()
        found = await asyncio.to_thread(_fuzz, daemon.url, await daemon.admin_token(), mode)
    assert found == []


def _fuzz(url: str, token: str, mode: GenerationMode) -> list[str]:
    """What was wrong, by operation."""
    failures: list[str] = []
    ids = _ids(url, token)
    schema = schemathesis.openapi.from_dict(openapi_document())
    for result in schema.get_all_operations():
        operation: Any = result.ok()  # type: ignore[union-attr]
        if operation.label in LEFT_OUT:
            continue

        @settings(
            max_examples=CASES,
            deadline=None,
            database=None,
            derandomize=True,
            verbosity=Verbosity.quiet,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def answered_as_documented(case: Any) -> None:
            if mode is GenerationMode.POSITIVE:  # ids that exist, else every answer is 404
                case.path_parameters = {name: ids.get(name, value) for name, value in case.path_parameters.items()}
            case.call_and_validate(base_url=url, headers={"authorization": f"Bearer {token}"}, checks=CHECKS)

        try:
            answered_as_documented()
        except (Exception, FailureGroup) as error:  # noqa: BLE001 - whatever it is, it is told with the operation
            failures.append(f"{operation.label}: {error}"[:1500])
    return failures


def _ids(url: str, token: str) -> dict[str, str]:
    with httpx.Client(base_url=url, headers={"authorization": f"Bearer {token}"}) as client:
        key = client.get("/admin/access-keys").json()["items"][0]
    return {"user_id": key["user_id"], "key_id": key["id"]}


def test_each_operation_says_what_it_needs_and_what_can_go_wrong() -> None:
    document = openapi_document()
    tags = {tag["name"] for tag in document["tags"]}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            assert operation["summary"], path
            assert operation["description"].endswith("."), path
            assert set(operation["tags"]) <= tags, path
            assert operation["security"], path
            assert {"401", "403", "422", "503"} <= set(operation["responses"]), path
            assert "404" in operation["responses"] or "{" not in path, path
            names = {parameter["name"] for parameter in operation.get("parameters", [])}
            assert ("idempotency-key" in names) is (method == "post" and "/auth/" not in path), path


def test_examples_are_what_the_models_take() -> None:
    schemas = openapi_document()["components"]["schemas"]
    modules = (access_keys, auth, bedrock_keys, budgets, common, models, pricing, tokens, users)
    known = {name: getattr(module, name) for module in modules for name in vars(module)}
    checked = 0
    for name, schema in schemas.items():
        for example in schema.get("examples", []):
            checked += 1
            known[name].model_validate_json(json.dumps(example))
            assert set(example) <= set(schema["properties"]), name
    bodies = {name for name, schema in schemas.items() if schema.get("additionalProperties") is False}
    assert checked >= 20
    assert {name for name in bodies if "examples" not in schemas[name]} == set()
