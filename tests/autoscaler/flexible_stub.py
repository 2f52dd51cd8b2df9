"""A worker that serves nothing but says which role it has, and changes it when asked to."""

from typing import Any

import grpc
from harness.stub_worker import StubWorker

from lengthwise_runtime.server import Server
from lengthwise_wire.v1 import worker_pb2


class FlexibleStub(StubWorker):
    """Changes its role when asked to, unless it refuses."""

    role = worker_pb2.ROLE_PREFILL
    service = "lengthwise.v1.Worker"
    refusal = ""

    def _register(self, server: Server) -> None:
        """It serves the role of neither."""

    async def SetRole(
        self, request: worker_pb2.SetRoleRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> worker_pb2.SetRoleResponse:
        await self.while_frozen()
        if self.refusal:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, self.refusal)
        previous, self.role = self.role, request.role
        return worker_pb2.SetRoleResponse(previous=previous)
