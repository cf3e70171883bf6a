"""Clients that are not ours, set up to talk to a simulator."""

from typing import Any

import anthropic
import boto3
from botocore.config import Config

REGION = "us-east-1"
KEY_ID = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


def boto(url: str, *, service: str = "bedrock-runtime", secret: str | None = SECRET) -> Any:
    """A boto3 client that tries once; without a secret it finds its credentials in the environment."""
    keys = {} if secret is None else {"aws_access_key_id": KEY_ID, "aws_secret_access_key": secret}
    return boto3.client(
        service,
        region_name=REGION,
        endpoint_url=url,
        config=Config(retries={"total_max_attempts": 1}, read_timeout=10),
        **keys,
    )


def sdk(url: str) -> anthropic.AnthropicBedrock:
    """The SDK's client of the invoke routes."""
    return anthropic.AnthropicBedrock(
        aws_access_key=KEY_ID, aws_secret_key=SECRET, aws_region=REGION, base_url=url, max_retries=0
    )
