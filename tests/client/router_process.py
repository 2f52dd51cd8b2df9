"""A router process that tests may kill: token i of a request is a function of its seed and i.

Arguments: its port (0: any) and the seconds between two tokens.
"""

import sys
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc

from lengthwise_wire.v1 import common_pb2, inference_pb2, inference_pb2_grpc

SEED = 12345


def token(seed: int, index: int) -> int:
    return (seed * 31 + index * index) % 997


class Inference(inference_pb2_grpc.InferenceServicer):
    def Generate(
        self, request: inference_pb2.GenerateRequest, context: Any
    ) -> Iterator[inference_pb2.GenerateResponse]:
        seed = request.sampling.seed if request.sampling.HasField("seed") else SEED
        received = list(request.resume.token_ids)
        if received != [token(seed, index) for index in range(len(received))]:
            context.abort(grpc.StatusCode.INTERNAL, f"resumed with {received}")
        yield inference_pb2.GenerateResponse(request_id=request.request_id, seed=seed)
        for index in range(len(received), request.max_tokens):
            time.sleep(float(sys.argv[2]))
            id = token(seed, index)
            yield inference_pb2.GenerateResponse(index=index, token_ids=[id], text=f"{id} ")
        yield inference_pb2.GenerateResponse(
            finish_reason=common_pb2.FINISH_REASON_LENGTH,
            usage=inference_pb2.Usage(prompt_tokens=1, output_tokens=request.max_tokens),
        )

    def Tokenize(
        self, request: inference_pb2.TokenizeRequest, context: Any
    ) -> inference_pb2.TokenizeResponse:
        return inference_pb2.TokenizeResponse(token_ids=[1, 2])


if __name__ == "__main__":
    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=4), options=[("grpc.so_reuseport", 0)]
    )
    inference_pb2_grpc.add_InferenceServicer_to_server(Inference(), server)
    print(server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}"), flush=True)
    server.start()
    server.wait_for_termination()
