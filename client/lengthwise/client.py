"""The synchronous client. Everything but the waiting is shared with `AsyncClient`."""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import Self, TypeVar, Unpack

from lengthwise._calls import Calls
from lengthwise._grpc.channel import DEFAULT_ENDPOINT, parse_endpoints
from lengthwise._grpc.sync import GrpcTransport
from lengthwise._retries import Inquiry, Retries
from lengthwise._session import Session, join
from lengthwise._wire import requests, responses
from lengthwise._wire.conversations import check_conversation
from lengthwise.explanation import Explanation
from lengthwise.settings import Retry, Timeout, Tls
from lengthwise.status import RouterStatus
from lengthwise.transport import Transport
from lengthwise.types import Chunk, Completion, Conversation, Model, Options, Prompt
from lengthwise_wire.errors import LengthwiseError
from lengthwise_wire.v1 import inference_pb2 as pb

T = TypeVar("T")


class Client:
    """Talks to the routers of one deployment; any number of threads may share it.

    with Client(["10.0.0.5:50051", "10.0.0.6:50051"]) as client:
        print(client.generate("Once upon a time", max_tokens=64, temperature=0.7).text)
        for chunk in client.stream([Message("user", "Why is the sky blue?")]):
            print(chunk.text, end="", flush=True)

    A router that is lost, even in the middle of a stream, is replaced by the next endpoint, or by
    itself once it is back; the completion goes on with the very token that comes next.
    """

    def __init__(
        self,
        endpoints: str | Sequence[str] = DEFAULT_ENDPOINT,
        *,
        tls: Tls | None = None,
        timeout: Timeout | float | None = None,
        retry: Retry | None = None,
        model: str | None = None,
        api_key: str | None = None,
        transports: Sequence[Transport] | None = None,
    ) -> None:
        """Connects on first use.

        endpoints: host:port of each router, or one name that resolves to all, such as
            dns:///service:port.
        model: of the calls that name none; needed where several are served.
        api_key: where routers ask for one; None: that of the environment's LENGTHWISE_API_KEY.
        transports: instead of endpoints; `lengthwise.fake.FakeTransport` serves tests.
        Errors: InvalidRequest.
        """
        timeout, retry = Timeout.of(timeout), Retry.of(retry)
        self._transports = transports or [
            GrpcTransport(target, tls=tls, connect_seconds=timeout.connect, api_key=api_key)
            for target in parse_endpoints(endpoints)
        ]
        self._calls = Calls(len(self._transports), timeout, retry, model)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancels what still runs, and disconnects."""
        for transport in self._transports:
            transport.close()

    def generate(self, prompt: Prompt, **options: Unpack[Options]) -> Completion:
        """Continues a prompt, and returns when all is there. `Options` lists the options.

        Errors: InvalidRequest at once; any other LengthwiseError when trying again is no use.
        """
        return responses.parsed(join(list(self.stream(prompt, **options))), options)

    def stream(self, prompt: Prompt, **options: Unpack[Options]) -> Generator[Chunk, None, None]:
        """Continues a prompt piece by piece. Leaving the loop, or `close()`, cancels the request at
        once.

        Errors: as `generate`; those that are not InvalidRequest come while iterating.
        """
        return self._run(self._calls.session(prompt, options, time.monotonic()))

    def chat(self, messages: Conversation, **options: Unpack[Options]) -> Completion:
        """`generate` with a conversation as its prompt, under its common name. With `tools`, the
        completion has `tool_calls`, and `message`, which the conversation goes on from.

        Errors: as `generate`; InvalidRequest for a text.
        """
        check_conversation(messages)
        return self.generate(messages, **options)

    def tokenize(
        self, prompt: Prompt, *, model: str | None = None, timeout: Timeout | float | None = None
    ) -> list[int]:
        """The token ids that `generate` would compute."""
        request = requests.tokenize_request(prompt, self._calls.model(model))
        retries = self._calls.retries(timeout, time.monotonic())
        response = self._unary(retries, lambda transport, left: transport.tokenize(request, left))
        return list(response.token_ids)

    def model(self, name: str | None = None, *, timeout: Timeout | float | None = None) -> Model:
        """A served model: by its name, or the only one."""
        request = requests.model_request(self._calls.model(name))
        retries = self._calls.retries(timeout, time.monotonic())
        response = self._unary(retries, lambda transport, left: transport.get_model(request, left))
        return responses.model(response)

    def models(self, *, timeout: Timeout | float | None = None) -> list[Model]:
        """All that is served, by name."""
        request = pb.ListModelsRequest()
        retries = self._calls.retries(timeout, time.monotonic())
        response = self._unary(
            retries, lambda transport, left: transport.list_models(request, left)
        )
        return [responses.model(each) for each in response.models]

    def explain(
        self,
        request_id: str,
        *,
        tenant: str | None = None,
        model: str | None = None,
        timeout: Timeout | float | None = None,
    ) -> Explanation:
        """The life of a request that one of the routers served lately; each is asked in turn.
        `tenant`, `model`: as the request's; the model may be left out unless requests to several
        had this id.

        Errors: RequestNotFound when no router remembers it; another LengthwiseError when one could
        not be asked and the others do not know.
        """
        request = requests.explain_request(request_id, tenant, self._calls.model(model))
        inquiry = self._calls.inquiry(timeout, time.monotonic())
        response = self._unary(inquiry, lambda transport, left: transport.explain(request, left))
        return responses.explanation(response)

    def status(self, *, timeout: Timeout | float | None = None) -> RouterStatus:
        """What one of the routers knows of its workers, and how long its requests took."""
        request = pb.GetStatusRequest()
        retries = self._calls.retries(timeout, time.monotonic())
        response = self._unary(retries, lambda transport, left: transport.get_status(request, left))
        return responses.status(response)

    def _run(self, session: Session) -> Generator[Chunk, None, None]:
        while not session.finished:
            attempt, request = session.begin(time.monotonic())
            transport = self._transports[attempt.endpoint]
            try:
                with closing(transport.generate(request, attempt.patience)) as responses:
                    for response in responses:
                        chunk = session.receive(response)
                        if chunk is not None:
                            yield chunk
                session.ended()
            except LengthwiseError as error:
                time.sleep(session.fail(error, time.monotonic()))

    def _unary(self, schedule: Retries | Inquiry, call: Callable[[Transport, Timeout], T]) -> T:
        while True:
            attempt = schedule.begin(time.monotonic())
            try:
                return call(self._transports[attempt.endpoint], attempt.patience)
            except LengthwiseError as error:
                time.sleep(schedule.fail(error, time.monotonic()))
