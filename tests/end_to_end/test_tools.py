"""The official `openai` package calls functions and goes on with their results: random weights,
held to it by a grammar, over a whole cluster."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import BaseModel, ConfigDict, Field

from lengthwise import AsyncClient, Client, InvalidRequest, Message
from lengthwise_engine.toy.checkpoint import write_toy_checkpoint
from lengthwise_local import LocalCluster

pytestmark = pytest.mark.slow

TOOLS = "{% for t in tools or [] %}{{ t.function.name }};{% endfor %}"
MESSAGES = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% for c in m.tool_calls or [] %}"
    "{{ c.function.name }}{{ c.function.arguments.city }}{% endfor %}{% endfor %}<|assistant|>"
)
TEMPLATES = {
    "hermes": f"{TOOLS}{{# <tool_call> #}}{MESSAGES}",
    "mistral": f"{TOOLS}{{# [TOOL_CALLS] #}}{MESSAGES}",
}


class Weather(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    city: str = Field(max_length=6)
    days: int = Field(ge=0, le=9)


WEATHER: Any = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": Weather.model_json_schema(), "strict": True},
}
STOP: Any = {"type": "function", "function": {"name": "stop"}}
ASKED: Any = {"role": "user", "content": "How warm?"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    models = {}
    for name, template in TEMPLATES.items():
        folder = write_toy_checkpoint(tmp_path_factory.mktemp("models") / name, eos_one_in=50)
        (folder / "chat_template.jinja").write_text(template)
        models[name] = folder
    with LocalCluster(models=models, http_port=0) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def client(cluster: LocalCluster) -> Iterator[openai.OpenAI]:
    base = f"http://{cluster.routers[0].http_address}/v1"
    with openai.OpenAI(base_url=base, api_key="none", max_retries=0, timeout=30) as client:
        yield client


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_function_that_must_be_called_is_and_the_conversation_goes_on(
    client: openai.OpenAI, name: str
) -> None:
    asked: Any = {
        "model": name,
        "messages": [ASKED],
        "tools": [STOP, WEATHER],
        "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
        "max_tokens": 300,
        "seed": 5,
    }
    choice = client.chat.completions.create(**asked).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (call,) = choice.message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "get_weather"
    Weather.model_validate_json(call.function.arguments)

    chunks = [*client.chat.completions.create(**asked, stream=True)]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    deltas = [d for chunk in chunks for d in chunk.choices[0].delta.tool_calls or []]
    first, *rest = deltas
    assert first.function is not None
    assert (first.index, first.type, first.function.name) == (0, "function", "get_weather")
    assert first.id
    assert "".join(d.function.arguments or "" for d in deltas if d.function) == (
        call.function.arguments
    )
    assert all(d.index == 0 and d.id is None for d in rest)
    assert not any(chunk.choices[0].delta.content for chunk in chunks)

    asked["messages"] += [
        choice.message,
        {"role": "tool", "tool_call_id": call.id, "content": json.dumps({"degrees": 21})},
    ]
    del asked["tool_choice"]
    again = client.chat.completions.create(**asked).choices[0]
    assert again.finish_reason in ("stop", "length", "tool_calls")


@pytest.mark.parametrize("name", TEMPLATES)
def test_one_call_of_any_function_is_required(client: openai.OpenAI, name: str) -> None:
    for seed in range(3):
        completion = client.chat.completions.create(
            model=name, messages=[ASKED], tools=[STOP, WEATHER], tool_choice="required",
            parallel_tool_calls=False, max_tokens=300, seed=seed, n=2,
        )  # fmt: skip
        for choice in completion.choices:
            assert choice.finish_reason == "tool_calls"
            (call,) = choice.message.tool_calls or []
            assert call.type == "function"
            assert call.function.name in ("get_weather", "stop")
            assert isinstance(json.loads(call.function.arguments), dict)


def test_what_is_no_call_is_content(client: openai.OpenAI) -> None:
    fields: Any = {"model": "hermes", "messages": [ASKED], "max_tokens": 30, "seed": 3}
    for choice in ("auto", "none"):
        completion = client.chat.completions.create(**fields, tools=[WEATHER], tool_choice=choice)
        message = completion.choices[0].message
        stream = client.chat.completions.create(
            **fields, tools=[WEATHER], tool_choice=choice, stream=True
        )
        assert "".join(c.choices[0].delta.content or "" for c in stream) == message.content
        assert not message.tool_calls
    plain = client.chat.completions.create(**fields).choices[0].message.content
    assert message.content == plain, "the template got no tools"


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_response_calls_a_function_and_goes_on_with_its_result(
    client: openai.OpenAI, name: str
) -> None:
    asked: Any = {
        "model": name,
        "instructions": "Be brief.",
        "input": [ASKED],
        "tools": [
            {"type": "function", **WEATHER["function"]},
            {"type": "function", "name": "stop"},
        ],
        "tool_choice": {"type": "function", "name": "get_weather"},
        "max_output_tokens": 300,
        "store": False,
        "extra_body": {"seed": 5},
    }
    response = client.responses.create(**asked)
    assert response.status == "completed"
    (call,) = response.output
    assert call.type == "function_call"
    assert call.name == "get_weather"
    Weather.model_validate_json(call.arguments)

    with client.responses.create(**asked, stream=True) as stream:
        events = [*stream]
    deltas = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
    assert "".join(deltas) == call.arguments
    assert events[-1].type == "response.completed"
    (streamed,) = events[-1].response.output
    assert streamed.type == "function_call"
    assert streamed.arguments == call.arguments

    result = {"type": "function_call_output", "call_id": call.call_id, "output": "21"}
    asked["input"] += [call, result]
    del asked["tool_choice"]
    again = client.responses.create(**asked)
    assert again.status in ("completed", "incomplete")
    assert again.usage is not None
    assert response.usage is not None
    assert again.usage.input_tokens > response.usage.input_tokens


def test_a_response_is_parsed(client: openai.OpenAI) -> None:
    asked: Any = {"model": "hermes", "input": "Where?", "text_format": Weather}
    response = client.responses.parse(**asked, max_output_tokens=300)
    assert isinstance(response.output_parsed, Weather)
    with client.responses.stream(**asked, max_output_tokens=300) as stream:
        final = stream.get_final_response()
    assert isinstance(final.output_parsed, Weather)


@pytest.mark.parametrize("name", TEMPLATES)
async def test_the_sdk_calls_a_function_and_goes_on_with_its_result(
    cluster: LocalCluster, client: openai.OpenAI, name: str
) -> None:
    asked = [Message("user", "How warm?")]
    options: Any = {"tools": [STOP, WEATHER], "tool_choice": "get_weather", "seed": 5}
    with Client(cluster.endpoint, model=name) as sdk:
        completion = sdk.chat(asked, **options, max_tokens=300)
        (call,) = completion.tool_calls
        assert (call.name, completion.content) == ("get_weather", "")
        Weather.model_validate_json(call.arguments)
        chunks = [*sdk.stream(asked, **options, max_tokens=300)]
        deltas = [delta for chunk in chunks for delta in chunk.tool_call_deltas]
        assert "".join(delta.arguments for delta in deltas) == call.arguments
        assert len(deltas) > 3
        result = Message("tool", "21", tool_call_id=call.id)
        again = sdk.chat([*asked, completion.message, result], tools=[WEATHER], max_tokens=20)
        assert again.usage.prompt_tokens > completion.usage.prompt_tokens
    async with AsyncClient(cluster.endpoint, model=name) as many:
        same = await many.chat(asked, **options, max_tokens=300)
        assert same.tool_calls[0].arguments == call.arguments
        several = await many.chat(
            asked, tools=[STOP, WEATHER], tool_choice="required", max_tokens=300, seed=2
        )
        assert {each.name for each in several.tool_calls} <= {"get_weather", "stop"}
        assert several.tool_calls
    told = client.chat.completions.create(
        model=name, messages=[ASKED], tools=[STOP, WEATHER], max_tokens=300, seed=5,
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
    )  # fmt: skip
    (by_http,) = told.choices[0].message.tool_calls or []
    assert by_http.type == "function"
    assert by_http.function.arguments == call.arguments, "both faces tell the same"


def test_what_the_sdk_asks_wrongly_of_functions_is_told(cluster: LocalCluster) -> None:
    asked = [Message("user", "How warm?")]
    wrong = {"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}
    broken = {"properties": {"a": {"type": "objekt"}}}
    refused = {"type": "function", "function": {"name": "f", "parameters": broken}}
    with Client(cluster.endpoint, model="hermes") as sdk:
        for tools, told in (([wrong], "JSON Schema of an object"), ([refused], "objekt")):
            with pytest.raises(InvalidRequest, match=told):
                sdk.chat(asked, tools=tools, tool_choice="required")
        with pytest.raises(InvalidRequest, match="not together with tools"):
            sdk.chat(asked, tools=[STOP], choice=["a", "b"])
        free = sdk.chat(asked, tools=[STOP], tool_choice="none", max_tokens=8, seed=3)
        assert free.content == free.text


def test_the_example_calls_its_function(cluster: LocalCluster) -> None:
    example = Path(__file__).parents[2] / "examples" / "tools.py"
    done = subprocess.run(
        [sys.executable, example, "hermes"],
        env={**os.environ, "LENGTHWISE_ENDPOINT": cluster.endpoint},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("get_weather({")
