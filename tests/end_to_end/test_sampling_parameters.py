"""`min_tokens` and `logit_bias` from the SDK to the engines and back."""

import grpc
import pytest
from harness.toy_oracle import toy_answer

import lengthwise
from lengthwise_checkpoint.toy import ToySpec
from lengthwise_local import LocalCluster
from lengthwise_wire.v1 import inference_pb2, inference_pb2_grpc

pytestmark = pytest.mark.slow

BIAS = {65: 3.0, 70: -100.0, 90: 1.0}
STOPS = tuple(range(33, 60))


@pytest.mark.parametrize("num_prompt_tokens", [3, 700])
@pytest.mark.parametrize("min_tokens", [0, 1, 24, 40])
def test_an_answer_is_that_of_the_definition(
    cluster: LocalCluster, toy_spec: ToySpec, num_prompt_tokens: int, min_tokens: int
) -> None:
    prompt = [(31 * i + 7) % 250 for i in range(num_prompt_tokens)]
    expected = toy_answer(prompt, 40, toy_spec, min_tokens=min_tokens, logit_bias=BIAS, stops=STOPS)
    assert len(expected) > min_tokens or len(expected) == 40
    with lengthwise.Client(cluster.endpoint) as client:
        completion = client.generate(
            prompt,
            max_tokens=40,
            temperature=0,
            min_tokens=min_tokens,
            logit_bias=BIAS,
            stop_token_ids=STOPS,
        )
    assert list(completion.token_ids) == expected
    assert completion.finish_reason == ("stop" if expected[-1] in STOPS else "length")


def test_a_resumed_request_counts_the_tokens_received(
    cluster: LocalCluster, toy_spec: ToySpec
) -> None:
    prompt = [5, 80, 200]
    expected = toy_answer(prompt, 60, toy_spec, min_tokens=30, logit_bias=BIAS, stops=STOPS)
    assert 30 < len(expected) < 60
    request = inference_pb2.GenerateRequest(max_tokens=60)
    request.prompt.token_ids.ids.extend(prompt)
    request.sampling.temperature = 0
    request.sampling.seed = 1
    request.sampling.min_tokens = 30
    request.sampling.logit_bias.update(BIAS)
    request.stop.token_ids.extend(STOPS)
    request.resume.token_ids.extend(expected[:11])
    with grpc.insecure_channel(cluster.endpoint) as channel:
        responses = list(inference_pb2_grpc.InferenceStub(channel).Generate(request, timeout=30))
    assert [token for response in responses for token in response.token_ids] == expected[11:]
