"""The seam between a client and one endpoint. `lengthwise.fake` is for tests.

Every method raises errors of `lengthwise.errors` alone, and bounds its own waiting by the timeout
it is given, whose `total` is what is left of the request's.
"""

from collections.abc import AsyncGenerator, Generator
from typing import Protocol

from lengthwise.types import Timeout
from lengthwise_wire.v1 import inference_pb2


class Transport(Protocol):
    """One endpoint, for `Client`."""

    def generate(
        self, request: inference_pb2.GenerateRequest, patience: Timeout
    ) -> Generator[inference_pb2.GenerateResponse, None, None]:
        """Closing the generator cancels the call at once."""

    def get_model(
        self, request: inference_pb2.GetModelRequest, patience: Timeout
    ) -> inference_pb2.GetModelResponse: ...

    def tokenize(
        self, request: inference_pb2.TokenizeRequest, patience: Timeout
    ) -> inference_pb2.TokenizeResponse: ...

    def explain(
        self, request: inference_pb2.ExplainRequest, patience: Timeout
    ) -> inference_pb2.ExplainResponse: ...

    def close(self) -> None: ...


class AsyncTransport(Protocol):
    """One endpoint, for `AsyncClient`."""

    def generate(
        self, request: inference_pb2.GenerateRequest, patience: Timeout
    ) -> AsyncGenerator[inference_pb2.GenerateResponse, None]:
        """Closing the generator cancels the call at once."""

    async def get_model(
        self, request: inference_pb2.GetModelRequest, patience: Timeout
    ) -> inference_pb2.GetModelResponse: ...

    async def tokenize(
        self, request: inference_pb2.TokenizeRequest, patience: Timeout
    ) -> inference_pb2.TokenizeResponse: ...

    async def explain(
        self, request: inference_pb2.ExplainRequest, patience: Timeout
    ) -> inference_pb2.ExplainResponse: ...

    async def close(self) -> None: ...
