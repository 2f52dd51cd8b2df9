"""What is counted, remembered, logged and traced of each request, from its arrival to its end."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lengthwise_router.config import RouterConfig
from lengthwise_router.serving.deadline import RequestDeadline
from lengthwise_router.serving.models.served_model import ServedModel
from lengthwise_router.serving.records import RequestRecord, RequestRecords
from lengthwise_router.serving.request_log import RequestLog, end_span
from lengthwise_router.tenants import Caller
from lengthwise_router.text.request import Request
from lengthwise_wire.errors import Cancelled, DeadlineExceeded, InternalError, LengthwiseError

if TYPE_CHECKING:  # its extra need not be installed
    from lengthwise_runtime.tracing.tracer import TracedSpan, Tracer


class RequestAccount:
    """Of one request."""

    def __init__(
        self, accounts: "RequestAccounts", model: ServedModel, deadline: RequestDeadline
    ) -> None:
        self._accounts = accounts
        self._model = model
        self._deadline = deadline
        self.record: RequestRecord | None = None

    def begin(self, request: Request, caller: Caller, user: str) -> RequestRecord:
        """The request has been read: it is remembered from now on."""
        self.record = RequestRecord(
            request_id=request.request_id,
            tenant=request.tenant,
            model=self._model.name,
            shown_as=self._model.named(request.adapter),
            priority=request.priority,
            user=user,
            arrived_at=self._deadline.arrived_at,
            span=self._accounts.begin_span(caller, self._deadline),
        )
        self._accounts.records.add(self.record)
        return self.record


class RequestAccounts:
    """Of all models."""

    def __init__(self, config: RouterConfig, tracer: "Tracer | None") -> None:
        self.records = RequestRecords(config.explained_requests)
        self._log = RequestLog(config.request_log_level)
        self._tracer = tracer

    @contextmanager
    def of_request(self, model: ServedModel, deadline: RequestDeadline) -> Iterator[RequestAccount]:
        """Counts a request, and how it ends."""
        code = "OK"
        account = RequestAccount(self, model, deadline)
        model.metrics.in_flight.inc()
        try:
            yield account
        except LengthwiseError as error:
            code = error.status.name
            raise
        except (asyncio.CancelledError, GeneratorExit):
            ending = DeadlineExceeded if deadline.has_passed else Cancelled
            code = ending.status.name
            raise
        except BaseException:
            code = InternalError.status.name
            raise
        finally:
            model.metrics.in_flight.dec()
            model.metrics.requests.ended(code)
            record = account.record
            if record is not None:
                record.ended(code, time.monotonic() - deadline.arrived_at)
                self._log.ended(record)
                end_span(record)

    def begin_span(self, caller: Caller, deadline: RequestDeadline) -> "TracedSpan | None":
        """None where the request is not traced."""
        if self._tracer is None:
            return None
        return self._tracer.begin("generate", caller.headers, deadline.arrived_at)
