"""A real gRPC server that serves Inference as a test scripts it."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc

from lengthwise_wire.errors import ERROR_KEY, RETRY_AFTER_KEY, LengthwiseError, RequestNotFound
from lengthwise_wire.v1 import common_pb2, inference_pb2, inference_pb2_grpc

Responses = Iterator[inference_pb2.GenerateResponse]
Script = Callable[[inference_pb2.GenerateRequest, Any], Responses]

SEED = 99


def first(request: inference_pb2.GenerateRequest) -> inference_pb2.GenerateResponse:
    """What a router sends at once."""
    seed = request.sampling.seed if request.sampling.HasField("seed") else SEED
    return inference_pb2.GenerateResponse(request_id=request.request_id, seed=seed)


def words(index: int, *texts: str) -> inference_pb2.GenerateResponse:
    """A message of one token per text; the token's id is 1,000 + its index."""
    ids = range(1_000 + index, 1_000 + index + len(texts))
    return inference_pb2.GenerateResponse(index=index, token_ids=ids, text="".join(texts))


def last(num_tokens: int) -> inference_pb2.GenerateResponse:
    return inference_pb2.GenerateResponse(
        index=num_tokens,
        finish_reason=common_pb2.FINISH_REASON_STOP,
        usage=inference_pb2.Usage(
            prompt_tokens=3, output_tokens=num_tokens, cached_prompt_tokens=1
        ),
        timings=inference_pb2.PhaseTimings(total_seconds=0.25, retries=1),
    )


def a_life(request_id: str) -> inference_pb2.ExplainResponse:
    """A request that was placed by prediction and went well."""
    return inference_pb2.ExplainResponse(
        request_id=request_id,
        model="toy",
        prompt_tokens=100,
        output_tokens=20,
        max_tokens=64,
        length_class="short",
        admission_reason="free: 1 of 8",
        admission_seconds=0.0015,
        attempts=[
            inference_pb2.ExplainAttempt(
                prefill_worker="p1",
                decode_worker="d1",
                placement_reason="predicted: 3.5 ms\x1b[31m",
                candidates=[
                    inference_pb2.ExplainCandidate(
                        prefill_worker="p1",
                        decode_worker="d1",
                        residual_tokens=4,
                        queue_seconds=0.001,
                        prefill_seconds=0.002,
                        transfer_seconds=0.0005,
                        time_to_first_token_seconds=0.0035,
                    ),
                    inference_pb2.ExplainCandidate(
                        decode_worker="d2",
                        residual_tokens=100,
                        prefill_seconds=0.04,
                        time_to_first_token_seconds=0.04,
                    ),
                ],
                cached_tokens_prefill=96,
                queue_seconds=0.0012,
                prefill_seconds=0.0024,
            )
        ],
        end=inference_pb2.ExplainEnd(
            code="OK",
            cached_prompt_tokens=96,
            timings=inference_pb2.PhaseTimings(
                time_to_first_token_seconds=0.006, total_seconds=0.1
            ),
        ),
    )


def fail(context: Any, error: LengthwiseError) -> None:
    """Ends the call as our servers do."""
    metadata = [(ERROR_KEY, type(error).__name__)]
    if error.retry_after_seconds is not None:
        metadata.append((RETRY_AFTER_KEY, str(error.retry_after_seconds)))
    context.set_trailing_metadata(metadata)
    context.abort(error.status, str(error))


class Router(inference_pb2_grpc.InferenceServicer):
    """Every call of Generate takes the next script."""

    def __init__(self) -> None:
        self.scripts: deque[Script] = deque()
        self.requests: list[inference_pb2.GenerateRequest] = []
        self.started = threading.Event()
        self.ended = threading.Event()
        """Set when a call has ended, by whomever."""
        self.released = threading.Event()
        """Ends every `freeze`."""
        self.unary_errors: deque[LengthwiseError] = deque()
        self.explanations: dict[str, inference_pb2.ExplainResponse] = {}
        self.explain_hangs = False
        self.status = inference_pb2.GetStatusResponse(
            router_id="r", models=[inference_pb2.ModelStatus(model="toy", short_tokens=64)]
        )
        self.vocab_size = 256
        self.address = ""

    def freeze(self) -> None:
        """Says nothing more, as a stopped process would."""
        self.released.wait(30)

    def Generate(self, request: inference_pb2.GenerateRequest, context: Any) -> Responses:
        self.requests.append(request)
        self.started.set()
        context.add_callback(self.ended.set)
        yield from self.scripts.popleft()(request, context)

    def GetModel(
        self, request: inference_pb2.GetModelRequest, context: Any
    ) -> inference_pb2.GetModelResponse:
        if self.unary_errors:
            fail(context, self.unary_errors.popleft())
        sampling = common_pb2.SamplingParams(temperature=0.7, top_p=0.95, repetition_penalty=1.0)
        return inference_pb2.GetModelResponse(
            model="toy",
            context_length=128,
            vocab_size=self.vocab_size,
            eos_token_ids=[2],
            default_sampling=sampling,
        )

    def Tokenize(
        self, request: inference_pb2.TokenizeRequest, context: Any
    ) -> inference_pb2.TokenizeResponse:
        return inference_pb2.TokenizeResponse(token_ids=request.prompt.text.encode())

    def Explain(
        self, request: inference_pb2.ExplainRequest, context: Any
    ) -> inference_pb2.ExplainResponse:
        if self.unary_errors:
            fail(context, self.unary_errors.popleft())
        if self.explain_hangs:
            self.freeze()
        if request.request_id not in self.explanations:
            message = f"request_id: got {request.request_id!r}, expected another"
            fail(context, RequestNotFound(message))
        return self.explanations[request.request_id]

    def GetStatus(
        self, request: inference_pb2.GetStatusRequest, context: Any
    ) -> inference_pb2.GetStatusResponse:
        return self.status


@contextmanager
def serving(router: Router, port: int = 0) -> Iterator[grpc.Server]:
    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=8), options=[("grpc.so_reuseport", 0)]
    )
    inference_pb2_grpc.add_InferenceServicer_to_server(router, server)
    router.address = f"127.0.0.1:{server.add_insecure_port(f'127.0.0.1:{port}')}"
    server.start()
    try:
        yield server
    finally:
        router.released.set()
        server.stop(None).wait(10)
