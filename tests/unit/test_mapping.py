"""From the model a client asks for to the model Bedrock is asked for."""

import pytest

from daemon.core.mapping import Target, Unmapped, check_target, load_catalogue, resolve
from daemon.resources import data_file

CATALOGUE = load_catalogue(data_file("models.json").read_bytes())


def target(model: str, **options: object) -> Target:
    arguments = {"database": {}, "environment": {}, "region": "us-east-1"} | options
    found = resolve(model, catalogue=CATALOGUE, **arguments)  # type: ignore[arg-type]
    assert isinstance(found, Target), found
    return found


@pytest.mark.parametrize(
    ("model", "bedrock_id", "route"),
    [
        ("claude-opus-5-5", "us.anthropic.claude-opus-5-5", "messages"),
        ("claude-opus-5-5[1m]", "us.anthropic.claude-opus-5-5", "messages"),
        ("claude-haiku-5-5-20261231", "global.anthropic.claude-haiku-5-5", "messages"),
        ("claude-sonnet-4-5", "global.anthropic.claude-sonnet-4-5-20250929-v1:0", "invoke"),
        ("claude-haiku-4-5-20251001", "global.anthropic.claude-haiku-4-5-20251001-v1:0", "invoke"),
        ("claude-opus-4-6", "global.anthropic.claude-opus-4-6-v1", "invoke"),
        ("us.anthropic.claude-opus-4-8", "global.anthropic.claude-opus-4-8", "messages"),
        ("claude-fable-5-2", "us.anthropic.claude-fable-5-2", "messages"),
        ("claude-opus-4-1", "us.anthropic.claude-opus-4-1-20250805-v1:0", "invoke"),
    ],
)
def test_a_model_is_mapped_by_the_package_to_a_profile_and_a_route(model: str, bedrock_id: str, route: str) -> None:
    found = target(model)
    assert (found.bedrock_id, found.route, found.source) == (bedrock_id, route, "packaged")


def test_the_database_is_over_the_environment_and_that_over_the_package() -> None:
    database = {"claude-opus-5-5": "eu.anthropic.claude-opus-5-5"}
    environment = {"claude-opus-5-5": "jp.anthropic.claude-opus-5-5"}
    assert target("claude-opus-5-5[1m]", database=database, environment=environment).bedrock_id.startswith("eu.")
    assert target("claude-opus-5-5", environment=environment).source == "environment"
    assert target("claude-opus-5-5", environment=environment).price_region == "jp"


def test_a_retired_or_unknown_model_is_an_error_never_a_default() -> None:
    for model in ("claude-3-7-sonnet-20250219", "claude-nobody-9", "gpt-x"):
        found = resolve(model, catalogue=CATALOGUE, database={}, environment={}, region="us-east-1")
        assert isinstance(found, Unmapped)
        assert model in found.reason


@pytest.mark.parametrize(
    ("region", "preference", "prefix"),
    [
        ("eu-west-1", None, "global"),
        ("eu-west-1", "eu", "eu"),
        ("ap-northeast-1", "jp", "jp"),
        ("us-gov-west-1", None, "us-gov"),
        ("ap-northeast-2", "apac", "apac"),
        ("us-east-1", "none", ""),
    ],
)
def test_the_profile_follows_preference_and_region(region: str, preference: str | None, prefix: str) -> None:
    found = target("claude-opus-5-5", region=region, preference=preference)
    assert found.bedrock_id == f"{prefix}.anthropic.claude-opus-5-5".lstrip(".")


def test_a_profile_that_was_rejected_is_not_tried_again() -> None:
    first = target("claude-opus-5-5")
    second = target("claude-opus-5-5", rejected={first.bedrock_id})
    assert second.bedrock_id == first.alternatives[0] == "global.anthropic.claude-opus-5-5"


def test_an_arn_goes_by_invoke_and_is_priced_as_the_model_that_was_asked_for() -> None:
    arn = "arn:aws:bedrock:eu-west-1:123456789012:application-inference-profile/abc123"
    found = target("claude-opus-5-5", database={"claude-opus-5-5": arn}, region="eu-west-1")
    assert (found.bedrock_id, found.route, found.model, found.price_region) == (arn, "invoke", "claude-opus-5-5", "eu")


@pytest.mark.parametrize("text", ["", "claude-opus-5-5", "../x", "gpt-4", "us.anthropic.", "arn:aws:s3:::x", "x" * 600])
def test_what_is_no_bedrock_id_is_refused_as_a_target(text: str) -> None:
    assert check_target(text) is not None


def test_every_packaged_profile_is_a_target() -> None:
    for entry in CATALOGUE.entries.values():
        assert all(check_target(profile) is None for profile in (*entry.profiles, entry.base_id))
