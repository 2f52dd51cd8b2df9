"""Over real gRPC: our errors arrive as themselves, malformed messages as INVALID_ARGUMENT."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from lengthwise import errors
from lengthwise_runtime.channel import open_channel
from lengthwise_runtime.server import Server
from lengthwise_wire.v1 import inference_pb2, inference_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class _Service(inference_pb2_grpc.InferenceServicer):
    def __init__(self, error: Exception) -> None:
        self.error = error

    async def Tokenize(
        self, request: inference_pb2.TokenizeRequest, context: Context
    ) -> inference_pb2.TokenizeResponse:
        raise self.error

    async def Generate(
        self, request: inference_pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[inference_pb2.GenerateResponse]:
        yield inference_pb2.GenerateResponse(text="a")
        raise self.error


@pytest.fixture
def service() -> _Service:
    return _Service(errors.InternalError("unset"))


@pytest.fixture
async def channel(service: _Service) -> AsyncIterator[grpc.aio.Channel]:
    server = Server("127.0.0.1:0", None, ["lengthwise.v1.Inference"])
    inference_pb2_grpc.add_InferenceServicer_to_server(service, server.guarded)
    address = await server.start()
    channel = open_channel(str(address), None)
    yield channel
    await channel.close(None)
    await server.stop(0.1)


def _raised(error: grpc.aio.AioRpcError) -> errors.LengthwiseError:
    metadata: dict[str, str] = dict(error.trailing_metadata())  # type: ignore[arg-type]
    return errors.from_status(error.code(), error.details() or "", metadata)


def _all_errors() -> list[type[errors.LengthwiseError]]:
    found: list[type[errors.LengthwiseError]] = []
    waiting = [errors.LengthwiseError]
    while waiting:
        children = waiting.pop().__subclasses__()
        found.extend(children)
        waiting.extend(children)
    return found


@pytest.mark.parametrize("cls", _all_errors(), ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("method", ["unary", "stream"])
async def test_every_error_of_the_tree_survives_the_wire(
    channel: grpc.aio.Channel, service: _Service, cls: type[errors.LengthwiseError], method: str
) -> None:
    service.error = cls("what, got, expected")
    stub = inference_pb2_grpc.InferenceStub(channel)

    async def call() -> None:
        if method == "unary":
            await stub.Tokenize(inference_pb2.TokenizeRequest(), timeout=5)
        else:
            async for response in stub.Generate(inference_pb2.GenerateRequest(), timeout=5):
                assert response.text == "a"

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call()
    error = _raised(caught.value)
    assert type(error) is cls
    assert str(error) == "what, got, expected"
    assert caught.value.code() is cls.status


async def test_an_overloaded_server_says_when_to_come_back(
    channel: grpc.aio.Channel, service: _Service
) -> None:
    service.error = errors.Overloaded("full", retry_after_seconds=2.5)
    stub = inference_pb2_grpc.InferenceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Tokenize(inference_pb2.TokenizeRequest(), timeout=5)
    assert _raised(caught.value).retry_after_seconds == 2.5


async def test_a_defect_shows_its_class_and_not_its_insides(
    channel: grpc.aio.Channel, service: _Service, caplog: pytest.LogCaptureFixture
) -> None:
    service.error = KeyError("secret-value")
    stub = inference_pb2_grpc.InferenceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Tokenize(inference_pb2.TokenizeRequest(), timeout=5)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "KeyError" in (caught.value.details() or "")
    assert "secret-value" not in (caught.value.details() or "")
    assert "secret-value" in caplog.text


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"\xff\xff\xff\xff", id="not protobuf"),
        # Field 1 (model) of TokenizeRequest is text; these two bytes are not UTF-8.
        pytest.param(b"\x0a\x02\xc3\x28", id="text that is not UTF-8"),
    ],
)
async def test_a_malformed_message_is_an_invalid_argument(
    channel: grpc.aio.Channel, message: bytes
) -> None:
    call = channel.unary_unary(
        "/lengthwise.v1.Inference/Tokenize",
        request_serializer=lambda data: data,
        response_deserializer=inference_pb2.TokenizeResponse.FromString,
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(message, timeout=5)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "not valid protobuf" in (caught.value.details() or "")
    assert "Traceback" not in (caught.value.details() or "")
