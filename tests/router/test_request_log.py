"""One line in the log for each request that has ended, without its text."""

import logging
from typing import Any

import grpc
import pytest
from router.deployment import Deploy

LOGGER = "lengthwise_router.serving.request_log"

SECRET = "the prompt that nobody may read in a log"


def lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == LOGGER]


def facts(record: logging.LogRecord) -> dict[str, Any]:
    found: dict[str, Any] = record.request  # type: ignore[attr-defined]
    return found


async def test_a_line_says_how_long_a_request_was_where_it_went_and_how_it_ended(
    deploy: Deploy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    deployment = await deploy()
    deployment.prefill[0].num_cached_tokens = 12
    answer = await deployment.generate(prompt=[65] * 40, max_tokens=5)
    (line,) = lines(caplog)
    assert line.levelno == logging.INFO
    assert line.request_id == answer.messages[0].request_id  # type: ignore[attr-defined]
    told = facts(line)
    assert told["code"] == "OK"
    assert told["rule"] == "predicted ttft"
    assert told["length_class"] == "short"
    assert (told["prompt_tokens"], told["output_tokens"]) == (40, 5)
    assert told["cached_prompt_tokens"] == 12
    assert told["total_seconds"] >= told["time_to_first_token_seconds"] > 0
    assert "code=OK" in line.getMessage()
    assert "prompt_tokens=40" in line.getMessage()


async def test_a_request_that_cannot_be_has_a_line_and_none_has_its_text(
    deploy: Deploy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    deployment = await deploy()
    await deployment.generate(prompt=SECRET, max_tokens=5)
    error = await deployment.refused(prompt=SECRET * 500, max_tokens=5)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert [facts(line)["code"] for line in lines(caplog)] == ["OK", "INVALID_ARGUMENT"]
    assert SECRET not in caplog.text


async def test_the_log_of_requests_can_be_switched_off(
    deploy: Deploy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    deployment = await deploy(request_log_level="OFF")
    await deployment.generate(max_tokens=5)
    assert not lines(caplog)
