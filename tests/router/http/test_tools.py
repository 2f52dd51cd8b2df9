"""What is said of tools is checked, and rendered; what is asked for wrongly is refused in OpenAI's
words, with the field."""

import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from router.deployment import deployed
from router.http.conftest import calling
from router.http.raw import ServedHttp
from router.stub_workers import MODEL

from lengthwise_router.config import HttpConfig

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEMPLATE = (
    "{% for t in tools or [] %}<tool>{{ t.function.name }}{% endfor %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.id }}{{ c.function.arguments | tojson }}"
    "{% endfor %}{{ m.tool_call_id }}{% endfor %}<assistant>"
    "{% if enable_thinking is false %}no thoughts{% endif %}"
)
MESSAGES: Any = [{"role": "user", "content": "hello"}]


def tool(name: str = "f", **function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **function}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(
    stub_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ServedHttp]:
    folder = tmp_path_factory.mktemp("tools") / MODEL
    shutil.copytree(stub_checkpoint, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    config = {"http": HttpConfig(listen="127.0.0.1:0")}
    async with deployed(folder, 1, 1, 0.002, config) as deployment, calling(deployment) as http:
        yield http


async def rendered(served: ServedHttp, **fields: Any) -> str:
    """The prompt that workers were sent."""
    body = {"model": MODEL, "messages": MESSAGES, "max_tokens": 2, **fields}
    response = await served.plain.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    reserved = served.deployment.decode[0].reserves[-1]
    return bytes(reserved.token_ids).decode()


async def test_the_template_gets_tools_calls_results_and_arguments(served: ServedHttp) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"é": 1}'}}
    history = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "21"}]},
    ]
    text = await rendered(
        served, messages=history, tools=[tool("f"), tool("g")],
        chat_template_kwargs={"enable_thinking": False},
    )  # fmt: skip
    assert text == (
        "<tool>f<tool>g<user>hello<assistant>None<tool_call>c1"
        '{"é": 1}<tool>21c1<assistant>no thoughts'
    )


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tools": []},
        {"tools": None, "tool_choice": "auto"},
        {"tools": [tool()], "tool_choice": "none"},
    ],
)
async def test_without_tools_that_may_be_called_the_template_gets_none(
    served: ServedHttp, fields: dict[str, Any]
) -> None:
    assert await rendered(served, **fields) == "<user>hello<assistant>"


def deep(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(depth // 2):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


ONE = [tool()]
WRONG: list[tuple[dict[str, Any], str, str | None]] = [
    ({"tools": "f"}, "expected an array", "tools"),
    ({"tools": [1]}, "expected an object", "tools[0]"),
    ({"tools": [{}]}, "Missing required parameter: 'tools[0].type'.", "tools[0].type"),
    (
        {"tools": [{"type": "code_interpreter"}]},
        "Invalid value: 'code_interpreter'. Supported values are: 'function'.",
        "tools[0].type",
    ),
    ({"tools": [{"type": "function"}]}, "Missing required parameter", "tools[0].function"),
    ({"tools": [{"type": "function", "function": []}]}, "object", "tools[0].function"),
    (
        {"tools": [{"type": "function", "function": {}}]},
        "Missing required parameter: 'tools[0].function.name'.",
        "tools[0].function.name",
    ),
    ({"tools": [tool("a b")]}, "pattern", "tools[0].function.name"),
    ({"tools": [tool("")]}, "pattern", "tools[0].function.name"),
    ({"tools": [tool("é")]}, "pattern", "tools[0].function.name"),
    ({"tools": [tool("f\n")]}, "pattern", "tools[0].function.name"),
    ({"tools": [tool("x" * 65)]}, "64", "tools[0].function.name"),
    ({"tools": [tool(), tool()]}, "duplicate name 'f'", "tools[1].function.name"),
    ({"tools": [tool(f"f{n}") for n in range(129)]}, "array too long", "tools"),
    ({"tools": [tool(description=1)]}, "string", "tools[0].function.description"),
    ({"tools": [tool(strict="yes")]}, "boolean", "tools[0].function.strict"),
    ({"tools": [tool(parameters=[])]}, "object", "tools[0].function.parameters"),
    (
        {"tools": [tool(parameters={"type": "string"})]},
        "schema must be a JSON Schema of 'type: \"object\"', got 'type: 'string''",
        "tools[0].function.parameters",
    ),
    (
        {"tools": [tool("g"), tool(parameters={"properties": {"a": {"type": "objekt"}}})]},
        "Invalid schema for function 'f': ",
        "tools[1].function.parameters",
    ),
    (
        {"tools": [tool(parameters={"$ref": "#/nowhere"})]},
        "Invalid schema for function 'f': ",
        "tools[0].function.parameters",
    ),
    (
        {"tools": [tool(strict=True, parameters={"properties": {"a": {"not": {}}}})]},
        "Unimplemented keys",
        "tools[0].function.parameters",
    ),
    (
        {"tools": [tool(parameters={"properties": {"a": {"enum": ["é" * 90_000]}}})]},
        "characters of schemas, expected at most 65536",
        "tools[0].function.parameters",
    ),
    (
        {"tools": [tool(parameters={"properties": {"a": {"maxLength": 2**70}}})]},
        "Invalid schema for function 'f': ",
        "tools[0].function.parameters",
    ),
    ({"tools": [tool(parameters=deep(200))]}, "recursion", "tools[0].function.parameters"),
    ({"tool_choice": "required"}, "only allowed when 'tools' are specified", "tool_choice"),
    ({"tools": ONE, "tool_choice": "any"}, "'none', 'auto', and 'required'", "tool_choice"),
    ({"tools": ONE, "tool_choice": 1}, "expected", "tool_choice"),
    ({"tools": ONE, "tool_choice": {}}, "Missing", "tool_choice.type"),
    ({"tools": ONE, "tool_choice": {"type": "function"}}, "Missing", "tool_choice.function"),
    (
        {"tools": ONE, "tool_choice": tool("unknown")},
        "no function named 'unknown' was specified in the 'tools' parameter",
        "tool_choice",
    ),
    ({"tools": ONE, "parallel_tool_calls": 1}, "boolean", "parallel_tool_calls"),
    (
        {"tools": ONE, "response_format": {"type": "json_object"}},
        "not together with tools",
        "response_format",
    ),
    ({"chat_template_kwargs": []}, "dictionary", "chat_template_kwargs"),
    ({"chat_template_kwargs": {"messages": []}}, "got 'messages'", "messages"),
    ({"chat_template_kwargs": {"a": "\ud800"}}, "surrogate", "chat_template_kwargs"),
    ({"tools": [tool(description="\ud800")]}, "surrogate", "tools[0]"),
    (
        {"messages": [{"role": "tool", "content": "a"}]},
        "Missing required parameter: 'messages[0].tool_call_id'.",
        "messages[0].tool_call_id",
    ),
    (
        {"messages": [{"role": "user", "content": "a", "tool_calls": [{}]}]},
        "only messages with role 'assistant'",
        "messages[0].tool_calls",
    ),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]},
        "expected a string",
        "messages[0].tool_calls[0].id",
    ),
    ({"messages": [{"role": "assistant"}]}, "expected a string", "messages[0].content"),
    ({"functions": [{"name": "f"}]}, "use tools", "functions"),
]


@pytest.mark.parametrize(("fields", "told", "param"), WRONG)
async def test_what_is_wrong_is_refused_in_the_words_of_openai(
    served: ServedHttp, fields: dict[str, Any], told: str, param: str | None
) -> None:
    body = {"model": MODEL, "messages": MESSAGES, **fields}
    response = await served.plain.post(
        "/v1/chat/completions",
        content=json.dumps(body),
        headers={"content-type": "application/json"},
    )
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param), error
    assert told in error["message"]
    assert len(error["message"]) < 1_500


async def test_schemas_with_keywords_that_no_grammar_keeps_to_are_served_unless_strict(
    served: ServedHttp,
) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "format": "unheard-of"}}}
    assert await rendered(served, tools=[tool(parameters={**schema, "x-mine": 1})])


async def test_schemas_of_any_depth_are_refused(served: ServedHttp) -> None:
    body = json.dumps({"model": MODEL, "messages": MESSAGES, "tools": [tool(parameters={"a": 0})]})
    for depth in (100, 300, *range(400, 520, 3), 100_000):
        schema = '{"properties": {"a": ' * depth + "{}" + "}}" * depth
        response = await served.plain.post(
            "/v1/chat/completions",
            content=body.replace('{"a": 0}', schema),
            headers={"content-type": "application/json"},
        )
        assert response.status_code == 400, (depth, response.text)


async def test_many_large_functions_are_served_but_not_forced(served: ServedHttp) -> None:
    large = [tool(f"f{n}", parameters={"description": "x" * 9000}) for n in range(9)]
    assert (await rendered(served, tools=large)).startswith("<tool>f0<tool>f1")
    body = {"model": MODEL, "messages": MESSAGES, "tools": large, "tool_choice": "required"}
    response = await served.plain.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "tools"


async def test_a_template_without_tools_refuses_them(shared: ServedHttp) -> None:
    body = {"model": MODEL, "messages": MESSAGES, "tools": ONE}
    response = await shared.plain.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "tools"


async def test_an_answer_that_the_template_lets_begin_in_reasoning_is_reasoning(
    stub_checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / MODEL
    shutil.copytree(stub_checkpoint, folder)
    template = "{{ messages[0].content }}{# </think> #}{% if enable_thinking %}<think>\n{% endif %}"
    (folder / "chat_template.jinja").write_text(template)
    config = {"http": HttpConfig(listen="127.0.0.1:0")}
    async with deployed(folder, 1, 1, 0.002, config) as deployment, calling(deployment) as http:
        for thinks in (True, False):
            arguments = {"enable_thinking": thinks}
            body = {"model": MODEL, "messages": MESSAGES, "max_tokens": 8}
            body["chat_template_kwargs"] = arguments
            response = await http.plain.post("/v1/chat/completions", json=body)
            message = response.json()["choices"][0]["message"]
            text = message["reasoning_content"] if thinks else message["content"]
            assert len(text) == 8
            assert (message["content"] == "") == thinks
            stream = await http.openai.chat.completions.create(
                model=MODEL, messages=MESSAGES, max_tokens=8, stream=True,
                extra_body={"chat_template_kwargs": arguments},
            )  # fmt: skip
            deltas = [chunk.choices[0].delta.to_dict() async for chunk in stream]
            field = "reasoning_content" if thinks else "content"
            assert "".join(str(delta.get(field) or "") for delta in deltas) == text
