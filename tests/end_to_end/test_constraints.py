"""Held to a grammar, random weights say nothing else: through real routers and workers."""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from llguidance import LLMatcher, LLTokenizer
from pydantic import BaseModel, ConfigDict, Field
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessor

import lengthwise
from lengthwise_local import LocalCluster
from lengthwise_wire.v1 import common_pb2, inference_pb2, inference_pb2_grpc

pytestmark = pytest.mark.slow

PROMPT = "Tell me about it: "


class Line(BaseModel):
    model_config = ConfigDict(extra="forbid")
    article: str = Field(max_length=12)
    number: int = Field(ge=1, le=99)


class Invoice(BaseModel):
    model_config = ConfigDict(extra="forbid")
    customer: str = Field(pattern="^[a-z]{2,8}$")
    lines: list[Line] = Field(max_length=2)
    paid: bool


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint("llama")


@pytest.fixture(scope="module")
def cluster(checkpoint: Path) -> Iterator[LocalCluster]:
    with LocalCluster(model=checkpoint) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def client(cluster: LocalCluster) -> Iterator[lengthwise.Client]:
    with lengthwise.Client(cluster.endpoint) as client:
        yield client


def at_once(
    client: lengthwise.Client, seeds: Iterable[int], **options: Any
) -> list[lengthwise.Completion]:
    with ThreadPoolExecutor() as threads:
        return list(threads.map(lambda seed: client.generate(PROMPT, seed=seed, **options), seeds))


def test_json_is_of_its_schema_whatever_the_seed(client: lengthwise.Client) -> None:
    schema = Invoice.model_json_schema()
    for completion in at_once(client, range(12), json_schema=schema, max_tokens=400):
        assert completion.finish_reason == "stop"
        invoice = Invoice.model_validate_json(completion.text)
        assert json.loads(completion.text) == invoice.model_dump()


@pytest.mark.parametrize(
    ("options", "is_of_it"),
    [
        pytest.param(
            {"regex": "[a-c]{3}-[0-9]{2}"},
            lambda text: re.fullmatch("[a-c]{3}-[0-9]{2}", text),
            id="regex",
        ),
        pytest.param(
            {"choice": ["yes", 'no "thanks" \\ é\n', "yes, please"]},
            lambda text: text in ["yes", 'no "thanks" \\ é\n', "yes, please"],
            id="choice",
        ),
        pytest.param(
            {"lark": 'start: "(" start ")" | "x"'},
            lambda text: re.fullmatch(r"(\(*)x(\)*)", text) and text.count("(") == text.count(")"),
            id="lark",
        ),
        pytest.param(
            {"json_schema": '{"type": "array", "items": {"enum": [1, "two", null]}}'},
            lambda text: set(json.loads(text)) <= {1, "two", None},
            id="schema as text",
        ),
    ],
)
def test_text_is_of_its_constraint(
    client: lengthwise.Client,
    options: dict[str, Any],
    is_of_it: Callable[[str], object],
) -> None:
    for completion in at_once(client, range(6), **options, max_tokens=100):
        if completion.finish_reason == "stop":
            assert is_of_it(completion.text), completion.text
        else:
            assert "lark" in options, "brackets may open for ever"


def test_tokens_are_those_of_transformers_under_the_same_masks(
    client: lengthwise.Client, checkpoint: Path
) -> None:
    """Greedy, in float32, with logits masked by a processor of its own."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    schema = Invoice.model_json_schema()
    grammar = LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_flexible": False})
    vocab_size = model.config.vocab_size
    ends = LLTokenizer(
        (checkpoint / "tokenizer.json").read_text(),
        n_vocab=vocab_size,
        eos_token=[model.generation_config.eos_token_id],
    )
    prompt = tokenizer(PROMPT, return_tensors="pt").input_ids

    class Mask(LogitsProcessor):
        def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            matcher = LLMatcher(ends, grammar)
            matcher.consume_tokens(ids[0, prompt.shape[1] :].tolist())
            allowed = torch.frombuffer(bytearray(matcher.compute_logit_bias()), dtype=torch.uint8)
            return scores.masked_fill(allowed[:vocab_size] == 0, float("-inf"))

    theirs = model.generate(
        prompt, do_sample=False, max_new_tokens=60, logits_processor=[Mask()], pad_token_id=0
    )[0, prompt.shape[1] :].tolist()
    ours = client.generate(PROMPT, json_schema=schema, temperature=0, max_tokens=60)
    assert list(ours.token_ids) == theirs


def test_a_stream_that_is_resumed_goes_on_within_its_grammar(
    cluster: LocalCluster, client: lengthwise.Client
) -> None:
    """As the SDK does it when its router is lost: what was received is sent along."""
    schema = json.dumps(Invoice.model_json_schema())
    whole = client.generate(PROMPT, json_schema=schema, seed=3, max_tokens=400)
    with grpc.insecure_channel(cluster.endpoint) as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        for received in (1, 7, len(whole.token_ids) - 1):
            request = inference_pb2.GenerateRequest(
                prompt=inference_pb2.Prompt(text=PROMPT),
                sampling=common_pb2.SamplingParams(seed=3),
                max_tokens=400,
                constraint=common_pb2.Constraint(json_schema=schema),
                resume=inference_pb2.Resume(token_ids=whole.token_ids[:received]),
            )
            rest = [token for reply in stub.Generate(request) for token in reply.token_ids]
            assert rest == list(whole.token_ids[received:])


def test_others_are_sampled_as_ever_beside_it(client: lengthwise.Client) -> None:
    alone = client.generate("hello", seed=5, max_tokens=30, ignore_eos=True).token_ids
    stream = client.stream("hello", seed=5, max_tokens=30, ignore_eos=True)
    client.generate(PROMPT, regex="[0-9]{20}", seed=1, max_tokens=30)
    assert [token for chunk in stream for token in chunk.token_ids] == list(alone)
