"""What a request becomes where its client left something open."""

from pathlib import Path

import pytest

from lengthwise_router.tenants import Tenant
from lengthwise_router.text.checkpoint import Checkpoint, load_checkpoint
from lengthwise_router.text.request import read_request
from lengthwise_wire.v1 import inference_pb2

NOBODY = Tenant(name="")


@pytest.fixture(scope="module")
def model(stub_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(str(stub_checkpoint), "")


def conversation(*roles: str) -> inference_pb2.Prompt:
    messages = [inference_pb2.ChatMessage(role=role, content="hi") for role in roles]
    return inference_pb2.Prompt(conversation=inference_pb2.Conversation(messages=messages))


@pytest.mark.parametrize(
    ("prompt", "stated", "returns"),
    [
        pytest.param(inference_pb2.Prompt(text="hi"), None, False, id="a text"),
        pytest.param(conversation("system", "user"), None, False, id="a first turn"),
        pytest.param(conversation("user", "assistant", "user"), None, True, id="a second turn"),
        pytest.param(conversation("user", "assistant", "user"), False, False, id="stated not to"),
        pytest.param(inference_pb2.Prompt(text="hi"), True, True, id="stated to"),
    ],
)
def test_a_conversation_that_came_back_is_expected_to_return(
    model: Checkpoint, prompt: inference_pb2.Prompt, stated: bool | None, returns: bool
) -> None:
    message = inference_pb2.GenerateRequest(prompt=prompt, conversation_returns=stated)
    assert read_request(message, model, NOBODY).conversation_returns == returns


def test_no_name_is_a_tenant_too(model: Checkpoint) -> None:
    request = read_request(inference_pb2.GenerateRequest(), model, NOBODY)
    assert (request.tenant, request.priority) == ("", 0)


def test_requests_without_a_name_get_names_of_their_own(model: Checkpoint) -> None:
    names = {
        read_request(inference_pb2.GenerateRequest(), model, NOBODY).request_id for _ in range(100)
    }
    assert len(names) == 100
