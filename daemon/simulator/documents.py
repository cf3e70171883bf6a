"""Documents and headers of Bedrock that are not the Messages API's."""

from typing import Any

from daemon.simulator.models import model_of


def metrics(usage: dict[str, Any]) -> dict[str, int]:
    """What Bedrock adds to the last event of a message."""
    return {
        "inputTokenCount": usage["input_tokens"],
        "outputTokenCount": usage["output_tokens"],
        "invocationLatency": 812,
        "firstByteLatency": 341,
        "cacheReadInputTokenCount": usage["cache_read_input_tokens"],
        "cacheWriteInputTokenCount": usage["cache_creation_input_tokens"],
    }


def count_headers(usage: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """The same numbers as headers of an answer in one piece."""
    names = {
        "input-token-count": "inputTokenCount",
        "output-token-count": "outputTokenCount",
        "cache-read-input-token-count": "cacheReadInputTokenCount",
        "cache-write-input-token-count": "cacheWriteInputTokenCount",
        "invocation-latency": "invocationLatency",
    }
    numbers = metrics(usage)
    return tuple((f"x-amzn-bedrock-{header}", str(numbers[name])) for header, name in names.items())


def summary(profile: str) -> dict[str, Any]:
    """An inference profile as ListInferenceProfiles describes it."""
    geography, _, base = profile.partition(".")
    return {
        "inferenceProfileName": f"{geography.upper()} {model_of(base).name}",
        "inferenceProfileArn": f"arn:aws:bedrock:us-east-1:123456789012:inference-profile/{profile}",
        "inferenceProfileId": profile,
        "description": f"Routes requests to {base} in {geography}.",
        "models": [{"modelArn": f"arn:aws:bedrock:us-east-1::foundation-model/{base}"}],
        "status": "ACTIVE",
        "type": "SYSTEM_DEFINED",
        "createdAt": "2026-01-01T00:00:00Z",
        "updatedAt": "2026-01-01T00:00:00Z",
    }
