"""The official `openai` package against a whole cluster: what it gets is what gRPC gives."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel, ConfigDict, Field

import lengthwise
from lengthwise_engine.toy.checkpoint import write_toy_checkpoint
from lengthwise_local import LocalCluster

pytestmark = pytest.mark.slow

NAME = "toy-chat"
TEMPLATE = "{% for m in messages %}<|user|>{{ m.content }}{% endfor %}<|assistant|>"
MESSAGES: Any = [{"role": "user", "content": "What is a deque?"}]
CHAT = [lengthwise.Message("user", "What is a deque?")]
PROMPT = "once upon a time"


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    folder = write_toy_checkpoint(tmp_path_factory.mktemp("models") / NAME, eos_one_in=50)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    with LocalCluster(model=folder, http_port=0) as cluster:
        yield cluster


@pytest.fixture
def client(serving: LocalCluster) -> Iterator[openai.OpenAI]:
    base = f"http://{serving.routers[0].http_address}/v1"
    with openai.OpenAI(base_url=base, api_key="none", max_retries=0, timeout=30) as client:
        yield client


@pytest.fixture
def grpc(serving: LocalCluster) -> Iterator[lengthwise.Client]:
    with lengthwise.Client(serving.endpoint) as client:
        yield client


def test_a_chat_is_that_of_grpc_whole_and_in_events(
    client: openai.OpenAI, grpc: lengthwise.Client
) -> None:
    for options in ({"seed": 7, "temperature": 0.9}, {"temperature": 0.0}):
        expected = grpc.chat(CHAT, max_tokens=40, **options)  # type: ignore[arg-type]
        asked: Any = {"model": NAME, "messages": MESSAGES, "max_tokens": 40, **options}
        whole = client.chat.completions.create(**asked)
        assert whole.choices[0].message.content == expected.text
        assert whole.choices[0].finish_reason == expected.finish_reason
        assert whole.usage is not None
        assert whole.usage.prompt_tokens == expected.usage.prompt_tokens
        assert whole.usage.completion_tokens == expected.usage.output_tokens
        stream = client.chat.completions.create(**asked, stream=True)
        assert "".join(c.choices[0].delta.content or "" for c in stream) == expected.text


async def test_the_asynchronous_client_gets_the_same(
    serving: LocalCluster, grpc: lengthwise.Client
) -> None:
    expected = [grpc.generate(PROMPT, max_tokens=30, seed=5 + i).text for i in range(3)]
    base = f"http://{serving.routers[0].http_address}/v1"
    async with openai.AsyncOpenAI(base_url=base, api_key="none") as client:
        completion = await client.completions.create(
            model=NAME, prompt=PROMPT, max_tokens=30, seed=5, n=3
        )
    assert [choice.text for choice in completion.choices] == expected


class Invoice(BaseModel):
    model_config = ConfigDict(extra="forbid")
    customer: str = Field(max_length=8)
    lines: list[int] = Field(max_length=3)
    paid: bool


def test_an_answer_is_parsed_as_the_class_that_was_asked_for(client: openai.OpenAI) -> None:
    for seed in range(3):
        completion = client.chat.completions.parse(
            model=NAME, messages=MESSAGES, response_format=Invoice, seed=seed, max_tokens=400
        )
        assert completion.choices[0].finish_reason == "stop"
        assert isinstance(completion.choices[0].message.parsed, Invoice)
    stream = client.chat.completions.create(
        model=NAME, messages=MESSAGES, response_format={"type": "json_object"}, seed=1, stream=True,
        max_tokens=200,
    )  # fmt: skip
    assert "".join(c.choices[0].delta.content or "" for c in stream).startswith("{")


def test_stop_texts_and_logprobs_are_those_of_grpc(
    client: openai.OpenAI, grpc: lengthwise.Client
) -> None:
    options: Any = {"max_tokens": 24, "seed": 3, "stop": ["a", "Z"]}
    expected = grpc.generate(PROMPT, **options, top_logprobs=2)
    completion = client.completions.create(model=NAME, prompt=PROMPT, logprobs=2, **options)
    (choice,) = completion.choices
    assert choice.text == expected.text
    assert choice.finish_reason == expected.finish_reason
    assert choice.logprobs is not None
    told = choice.logprobs.token_logprobs or []
    assert told == pytest.approx([token.logprobs.logprob for token in expected.tokens])  # type: ignore[union-attr]


def test_errors_have_the_classes_of_the_package(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="toy-chat"):
        client.completions.create(model="other", prompt="a")
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model=NAME, prompt="a", max_tokens=10**6)
    assert refused.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model=NAME, messages=MESSAGES, temperature=-1)
    assert refused.value.param == "temperature"
    assert [model.id for model in client.models.list()] == [NAME]


def test_a_router_that_is_started_again_keeps_its_address(
    serving: LocalCluster, client: openai.OpenAI
) -> None:
    address = serving.routers[0].http_address
    serving.routers[0].restart()
    assert serving.routers[0].http_address == address
    assert client.with_options(max_retries=3).completions.create(model=NAME, prompt="a").usage
