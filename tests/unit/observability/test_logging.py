"""No credential passes the redactor, whichever logger it came through."""

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from daemon.observability.logging import configure, redact

SECRETS = [
    "ak_3fK9mPq2Zt7Lw0Rb5Xy8Nc1Vd4Hg6Js3fK9mPq2Zt7LwAbCdEf",
    "sk-ant-api03-A_b-C",
    "ABSKQmVkcm9ja0FQSUtleQ==",
    "bedrock-api-key-YmVkcm9jaw==",
    "Bearer opaque-token",
    "Basic YWRtaW46cGFzcw==",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl",
]


@pytest.fixture(autouse=True)
def loggers_as_they_were() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, configured = root.handlers[:], root.level, structlog.get_config()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**configured)


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_is_cut_to_its_prefix_and_the_text_around_it_stays(secret: str) -> None:
    text = redact(f'before "{secret}" after')
    assert secret not in text
    assert "***" in text
    assert text.startswith('before "')
    assert text.endswith('" after')


def test_the_password_of_a_url_is_cut_out() -> None:
    assert redact("postgresql://proxy:hunter2@db:5432/x") == "postgresql://proxy:***@db:5432/x"


def test_plain_words_pass_unchanged() -> None:
    text = "the key ak_short, a token bearer, eyJ, sk-ant, https://host:80/path"
    assert redact(text) == text


@pytest.mark.parametrize("secret", SECRETS)
def test_no_secret_reaches_stderr_as_text_object_or_exception(secret: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure(level="info", json=True)
    structlog.get_logger().info(f"event {secret}", field=secret, nested={"headers": [secret]})
    logging.getLogger("library").warning("library says %s", secret)
    structlog.get_logger().error("failed", exc_info=ValueError(secret))
    logging.getLogger("library").error("failed", exc_info=ValueError(secret))
    written = capsys.readouterr().err
    assert [json.loads(line)["level"] for line in written.splitlines()] == ["info", "warning", "error", "error"]
    assert secret not in written


def test_below_the_level_nothing_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    configure(level="warning", json=True)
    structlog.get_logger().info("quiet")
    logging.getLogger("library").info("quiet")
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_text(capsys: pytest.CaptureFixture[str]) -> None:
    configure(level="info", json=False)
    structlog.get_logger().info("noun", count=3)
    written = capsys.readouterr().err
    assert "noun" in written
    assert "count=3" in written
