"""The seam between a client and one endpoint. `lengthwise.fake` is for tests.

Every method raises errors of `lengthwise.errors` alone, and bounds its own waiting by the timeout
it is given, whose `total` is what is left of the request's.
"""

from collections.abc import AsyncGenerator, Generator
from typing import Protocol

from lengthwise.settings import Timeout
from lengthwise_wire.v1 import inference_pb2 as pb


class Transport(Protocol):
    """One endpoint, for `Client`."""

    def generate(
        self, request: pb.GenerateRequest, patience: Timeout
    ) -> Generator[pb.GenerateResponse, None, None]:
        """Closing the generator cancels the call at once."""

    def get_model(self, request: pb.GetModelRequest, patience: Timeout) -> pb.GetModelResponse: ...

    def list_models(
        self, request: pb.ListModelsRequest, patience: Timeout
    ) -> pb.ListModelsResponse: ...

    def tokenize(self, request: pb.TokenizeRequest, patience: Timeout) -> pb.TokenizeResponse: ...

    def explain(self, request: pb.ExplainRequest, patience: Timeout) -> pb.ExplainResponse: ...

    def get_status(
        self, request: pb.GetStatusRequest, patience: Timeout
    ) -> pb.GetStatusResponse: ...

    def close(self) -> None: ...


class AsyncTransport(Protocol):
    """One endpoint, for `AsyncClient`."""

    def generate(
        self, request: pb.GenerateRequest, patience: Timeout
    ) -> AsyncGenerator[pb.GenerateResponse, None]:
        """Closing the generator cancels the call at once."""

    async def get_model(
        self, request: pb.GetModelRequest, patience: Timeout
    ) -> pb.GetModelResponse: ...

    async def list_models(
        self, request: pb.ListModelsRequest, patience: Timeout
    ) -> pb.ListModelsResponse: ...

    async def tokenize(
        self, request: pb.TokenizeRequest, patience: Timeout
    ) -> pb.TokenizeResponse: ...

    async def explain(
        self, request: pb.ExplainRequest, patience: Timeout
    ) -> pb.ExplainResponse: ...

    async def get_status(
        self, request: pb.GetStatusRequest, patience: Timeout
    ) -> pb.GetStatusResponse: ...

    async def close(self) -> None: ...
