"""A mistake of a client is refused at once: the field, what was got, what is accepted."""

import math
from typing import Any

import pytest
from router.deployment import PROMPT, Deployment
from router.stub_workers import stub_answer

from lengthwise_wire.v1 import common_pb2, inference_pb2

pytestmark = pytest.mark.asyncio(loop_scope="module")

Stop = inference_pb2.StopConditions
Resume = inference_pb2.Resume
NAN, INF = math.nan, math.inf


def _sampling(**fields: float) -> dict[str, Any]:
    return {"sampling": common_pb2.SamplingParams(**fields)}  # type: ignore[arg-type]


def _bias(values: dict[int, float]) -> dict[str, Any]:
    return {"sampling": common_pb2.SamplingParams(logit_bias=values)}


def _conversation(*contents: str) -> inference_pb2.Prompt:
    return inference_pb2.Prompt(
        conversation=inference_pb2.Conversation(
            messages=[inference_pb2.ChatMessage(role="user", content=text) for text in contents]
        )
    )


BAD = [
    ("no prompt", {"prompt": inference_pb2.Prompt()}, "prompt: got none"),
    ("empty text", {"prompt": ""}, "prompt.text: got an empty text"),
    ("no token ids", {"prompt": ()}, "prompt.token_ids: got none"),
    ("token id too high", {"prompt": (1, 260)}, "prompt.token_ids: got 260, expected ids below"),
    ("no chat template", {"prompt": _conversation("hi")}, "has no chat template"),
    ("text of 5 MB", {"prompt": "x" * 5_000_000}, "prompt.text: got 5000000 bytes, at most"),
    ("text of 5 MB in UTF-8", {"prompt": "é" * 2_500_000}, "prompt.text: got 5000000 bytes"),
    ("conversation of 5 MB", {"prompt": _conversation("x" * 5_000_000)}, "no chat template"),
    ("prompt fills context", {"prompt": [1] * 512}, "got 512 tokens; the context of 512 tokens"),
    ("far too many ids", {"prompt": [1] * 70_000}, "ids: got 70000 bytes of token ids, expected"),
    ("max_tokens 0", {"max_tokens": 0}, "max_tokens: got 0, expected an integer in [1, "),
    ("max_tokens too many", {"max_tokens": 497}, "max_tokens: got 497 after a prompt of 16"),
    ("temperature below 0", _sampling(temperature=-0.5), "sampling.temperature: got -0.5, expect"),
    ("temperature above 100", _sampling(temperature=101), "expected a number in [0, 100]"),
    ("temperature NaN", _sampling(temperature=NAN), "sampling.temperature: got nan, expected"),
    ("temperature infinite", _sampling(temperature=INF), "sampling.temperature: got inf, expect"),
    ("top_p 0", _sampling(top_p=0), "sampling.top_p: got 0.0, expected a number in (0, 1]"),
    ("top_p 2", _sampling(top_p=2), "sampling.top_p: got 2.0, expected a number in (0, 1]"),
    ("top_p NaN", _sampling(top_p=NAN), "sampling.top_p: got nan"),
    ("min_p below 0", _sampling(min_p=-0.1), "sampling.min_p: got -0.1, expected a number in [0"),
    ("min_p above 1", _sampling(min_p=1.5), "sampling.min_p: got 1.5"),
    ("repetition 0", _sampling(repetition_penalty=0), "sampling.repetition_penalty: got 0"),
    ("repetition infinite", _sampling(repetition_penalty=INF), "repetition_penalty: got inf"),
    ("presence", _sampling(presence_penalty=2.5), "sampling.presence_penalty: got 2.5, expected"),
    ("frequency", _sampling(frequency_penalty=-3), "sampling.frequency_penalty: got -3.0, expec"),
    (
        "min_tokens",
        {"max_tokens": 3, **_sampling(min_tokens=4)},
        "sampling.min_tokens: got 4, expe",
    ),
    ("bias too large", _bias({7: 100.5}), "sampling.logit_bias[7]: got 100.5, expected a number"),
    ("bias NaN", _bias({7: NAN}), "sampling.logit_bias[7]: got nan"),
    ("bias of no token", _bias({260: 1.0}), "sampling.logit_bias: got 260, expected ids below"),
    ("many biases", _bias(dict.fromkeys(range(301), 1.0)), "got 301 entries, expected at most 300"),
    ("top_logprobs", {"top_logprobs": 21}, "top_logprobs: got 21, expected an integer in [0, 20]"),
    (
        "many stop strings",
        {"stop": Stop(strings=["x"] * 17)},
        "stop.strings: got 17 strings, expected at most 16",
    ),
    ("empty stop string", {"stop": Stop(strings=["a", ""])}, "stop.strings[1]: got 0 characters"),
    (
        "long stop string",
        {"stop": Stop(strings=["x" * 257])},
        "stop.strings[0]: got 257 characters, expected 1 to 256",
    ),
    ("stop token", {"stop": Stop(token_ids=[260])}, "stop.token_ids: got 260, expected ids below"),
    (
        "many stop tokens",
        {"stop": Stop(token_ids=[1] * 257)},
        "stop.token_ids: got 257, expected at most",
    ),
    (
        "priority too high",
        {"priority": 101},
        "priority: got 101, expected an integer in [-100, 100]",
    ),
    ("priority too low", {"priority": -101}, "priority: got -101, expected an integer in [-100"),
    ("tenant", {"tenant": "é" * 129}, "tenant: got 129 characters, expected at most 128"),
    ("tenant with a line end", {"tenant": "a\n"}, "tenant: got 'a\\n', expected printable"),
    ("request_id", {"request_id": "x" * 129}, "request_id: got 129 characters, expected 1 to 128"),
    ("resume without seed", {"resume": Resume(token_ids=[1])}, "sampling.seed: got none with res"),
    (
        "resume beyond max_tokens",
        {"resume": Resume(token_ids=[1, 2, 3]), "max_tokens": 2, **_sampling(seed=1)},
        "resume.token_ids: got 3, expected at most max_tokens, which is 2",
    ),
    (
        "resumed token id too high",
        {"resume": Resume(token_ids=[1, 999]), **_sampling(seed=1)},
        "resume.token_ids: got 999, expected ids below",
    ),
    (
        "no constraint",
        {"constraint": common_pb2.Constraint()},
        "constraint: got none, expected one of json_schema",
    ),
    (
        "empty constraint",
        {"constraint": common_pb2.Constraint(regex="")},
        "constraint.regex: got an empty text",
    ),
    (
        "no choices",
        {"constraint": common_pb2.Constraint(choice=common_pb2.Choice())},
        "constraint.choice: got 0 texts",
    ),
    (
        "many choices",
        {"constraint": common_pb2.Constraint(choice=common_pb2.Choice(texts=["a"] * 1025))},
        "constraint.choice: got 1025 texts, expected 1 to 1024",
    ),
    (
        "an empty choice",
        {"constraint": common_pb2.Constraint(choice=common_pb2.Choice(texts=["a", ""]))},
        "constraint.choice: got an empty text",
    ),
    (
        "long constraint",
        {"constraint": common_pb2.Constraint(lark="x" * 65_536)},
        "constraint.lark: got 65540 bytes, expected at most 65536",
    ),
    (
        "min_tokens with a constraint",
        {
            "constraint": common_pb2.Constraint(regex="a"),
            **_sampling(min_tokens=2),
        },
        "sampling.min_tokens: got 2 with a constraint, expected 0",
    ),
    (
        "ignore_eos with a constraint",
        {
            "constraint": common_pb2.Constraint(regex="a"),
            "stop": Stop(ignore_eos=True),
        },
        "stop.ignore_eos: got true with a constraint",
    ),
]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [pytest.param(fields, expected, id=name) for name, fields, expected in BAD],
)
async def test_it_is_an_invalid_argument(
    standing: Deployment, fields: dict[str, Any], expected: str
) -> None:
    computed = len(standing.prefill[0].requests)
    error = await standing.refused(**{"max_tokens": 3, **fields})
    assert error.code().name == "INVALID_ARGUMENT"
    assert expected in error.details()
    assert standing.in_flight == 0
    assert len(standing.prefill[0].requests) == computed


async def test_prompts_that_do_not_fit_have_an_error_of_their_own(standing: Deployment) -> None:
    error = await standing.refused(prompt=[1] * 600)
    assert error.trailing_metadata()["lengthwise-error"] == "PromptTooLong"


async def test_a_model_that_is_not_served_is_not_found(standing: Deployment) -> None:
    error = await standing.refused(model="other", max_tokens=1)
    assert error.code().name == "NOT_FOUND"
    assert error.details() == "model: got 'other', this router serves 'stub'"
    answer = await standing.generate(model="stub", max_tokens=1)
    assert answer.token_ids == stub_answer(PROMPT, 1)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"prompt": [1] * 511, "max_tokens": 1}, id="context filled to the brim"),
        pytest.param(_sampling(temperature=0), id="greedy"),
        pytest.param(_sampling(temperature=100, top_k=2**32 - 1), id="large sampling values"),
        pytest.param(_sampling(top_p=1, min_p=1), id="bounds of the probabilities"),
        pytest.param(_sampling(presence_penalty=-2, frequency_penalty=2), id="bounds of penalties"),
        pytest.param(_sampling(min_tokens=2), id="as many tokens as asked for"),
        pytest.param(_bias(dict.fromkeys(range(130), -100.0)), id="lowest bias"),
        pytest.param(_bias({259: 100.0}), id="highest bias"),
        pytest.param({"top_logprobs": 20}, id="most log probabilities"),
        pytest.param({"request_id": "é" * 128}, id="longest name"),
        pytest.param({"tenant": "é" * 128, "priority": -100}, id="longest tenant"),
        pytest.param({"priority": 100}, id="most urgent"),
        pytest.param({"stop": Stop(strings=["é" * 256] * 16)}, id="longest stop strings"),
    ],
)
async def test_the_bounds_themselves_are_accepted(
    standing: Deployment, fields: dict[str, Any]
) -> None:
    answer = await standing.generate(**{"max_tokens": 2, **fields})
    assert answer.last.finish_reason == common_pb2.FINISH_REASON_LENGTH


async def test_bytes_that_are_no_message_are_an_invalid_argument(standing: Deployment) -> None:
    error = await standing.refused_bytes(b"\x1a\x04\x0a\x02\xff\xfe")
    assert error.code().name == "INVALID_ARGUMENT"
