"""Clients that are not ours, set up to talk to a simulator."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anthropic
import boto3
from botocore.config import Config

REGION = "us-east-1"
KEY_ID = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


@contextmanager
def boto(url: str, *, service: str = "bedrock-runtime", secret: str | None = SECRET) -> Iterator[Any]:
    """A boto3 client that tries once; without a secret it finds its credentials in the environment."""
    keys = {} if secret is None else {"aws_access_key_id": KEY_ID, "aws_secret_access_key": secret}
    once = Config(retries={"total_max_attempts": 1}, read_timeout=10)
    client = boto3.client(service, region_name=REGION, endpoint_url=url, config=once, **keys)
    try:
        yield client
    finally:
        client.close()


def sdk(url: str) -> anthropic.AnthropicBedrock:
    """The SDK's client of the invoke routes."""
    return anthropic.AnthropicBedrock(
        aws_access_key=KEY_ID, aws_secret_key=SECRET, aws_region=REGION, base_url=url, max_retries=0
    )


def native(url: str) -> anthropic.Anthropic:
    """The SDK's ordinary client, sent to the Messages route."""
    return anthropic.Anthropic(base_url=f"{url}/anthropic", auth_token="a-bedrock-api-key", max_retries=0)


def mantle(url: str) -> anthropic.AnthropicBedrockMantle:
    """The SDK's client of another endpoint of Bedrock that speaks the same API."""
    return anthropic.AnthropicBedrockMantle(
        api_key="a-bedrock-api-key", aws_region=REGION, base_url=f"{url}/anthropic", max_retries=0
    )
