"""Whatever comes in is answered clearly, and leaves no block behind."""

import math
from typing import Any

import grpc
import pytest
from harness.clusters import nothing_is_held
from harness.waiting import eventually

import lengthwise
from lengthwise_local import LocalCluster
from lengthwise_runtime.channel import open_channel
from lengthwise_wire.v1 import inference_pb2, inference_pb2_grpc

pytestmark = pytest.mark.slow

INVALID = grpc.StatusCode.INVALID_ARGUMENT

Request = inference_pb2.GenerateRequest


def _request(**fields: Any) -> Request:
    ids = fields.pop("ids", None)
    prompt = inference_pb2.Prompt(text=fields.pop("text", "hello"))
    if ids is not None:
        prompt.token_ids.ids.extend(ids)
    sampling = {
        name: fields.pop(name)
        for name in ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty")
        if name in fields
    }
    request = Request(prompt=prompt, **fields)
    for name, value in sampling.items():
        setattr(request.sampling, name, value)
    return request


@pytest.mark.parametrize(
    ("request_", "code", "word"),
    [
        pytest.param(_request(text=""), INVALID, "prompt", id="empty text"),
        pytest.param(_request(ids=[]), INVALID, "prompt", id="no token ids"),
        pytest.param(Request(), INVALID, "prompt", id="no prompt"),
        pytest.param(_request(text="a" * 5000), INVALID, "4096", id="longer than the context"),
        pytest.param(_request(text="a" * 5_000_000), INVALID, "5,000,000", id="5 MB"),
        pytest.param(_request(max_tokens=4096), INVALID, "max_tokens", id="max_tokens too large"),
        pytest.param(_request(max_tokens=0), INVALID, "max_tokens", id="max_tokens 0"),
        pytest.param(_request(temperature=-1), INVALID, "temperature", id="negative temperature"),
        pytest.param(_request(temperature=math.nan), INVALID, "temperature", id="NaN"),
        pytest.param(_request(top_p=0), INVALID, "top_p", id="top_p 0"),
        pytest.param(_request(top_p=2), INVALID, "top_p", id="top_p 2"),
        pytest.param(_request(min_p=-1), INVALID, "min_p", id="min_p"),
        pytest.param(_request(repetition_penalty=0), INVALID, "repetition_penalty", id="penalty"),
        pytest.param(_request(presence_penalty=9), INVALID, "presence_penalty", id="presence"),
        pytest.param(_request(top_logprobs=21), INVALID, "top_logprobs", id="logprobs"),
        pytest.param(_request(ids=[1, 999]), INVALID, "999", id="token id out of range"),
        pytest.param(
            _request(model="other"), grpc.StatusCode.NOT_FOUND, "other", id="unknown model"
        ),
    ],
)
async def test_bad_requests_are_named(
    cluster: LocalCluster, request_: Request, code: grpc.StatusCode, word: str
) -> None:
    channel = open_channel(cluster.endpoint, None)
    call = inference_pb2_grpc.InferenceStub(channel).Generate(request_, timeout=10)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    details = caught.value.details() or ""
    assert caught.value.code() is code
    assert word in details or word.replace(",", "") in details
    assert "Traceback" not in details
    await channel.close(None)
    await eventually(lambda: nothing_is_held(cluster))


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"\xff\xff\xff\xff", id="not protobuf"),
        pytest.param(b"\x12\x02\xc3\x28", id="model is not UTF-8"),
        pytest.param(b"\x1a\x04\x0a\x02\xc3\x28", id="prompt is not UTF-8"),
    ],
)
async def test_messages_that_are_none_are_refused(cluster: LocalCluster, message: bytes) -> None:
    channel = open_channel(cluster.endpoint, None)
    method = channel.unary_stream(
        "/lengthwise.v1.Inference/Generate",
        request_serializer=_as_it_is,
        response_deserializer=_as_it_is,
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await method(message, timeout=10).read()
    assert caught.value.code() is INVALID
    assert "protobuf" in (caught.value.details() or "")
    await channel.close(None)


def _as_it_is(data: bytes) -> bytes:
    return data


async def test_the_sdk_raises_the_class_that_fits(cluster: LocalCluster) -> None:
    async with lengthwise.AsyncClient(cluster.endpoints) as client:
        with pytest.raises(lengthwise.PromptTooLong, match="4096"):
            await client.generate("a" * 5000)
        with pytest.raises(lengthwise.ModelNotFound, match="other"):
            await client.generate("a", model="other")
        with pytest.raises(lengthwise.InvalidRequest, match="token"):
            await client.generate([999])
