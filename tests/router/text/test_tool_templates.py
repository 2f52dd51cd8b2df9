# ruff: noqa: E501  # templates are as in the wild
"""Conversations with tools render as with transformers, by templates of each family's kind."""

import json
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from lengthwise_router.text.sandbox.chat import ChatTemplate
from lengthwise_router.text.sandbox.conversations import arguments_of, messages_of, tools_of
from lengthwise_router.text.sandbox.process import Refusal
from lengthwise_wire.v1 import inference_pb2

HERMES = """{%- if tools %}
    {{- '<|im_start|>system\n# Tools\n<tools>' }}
    {%- for tool in tools %}
        {{- "\n" }}{{- tool | tojson }}
    {%- endfor %}
    {{- '\n</tools>\n<tool_call>\n{"name": ..., "arguments": ...}\n</tool_call><|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == "assistant" and message.tool_calls %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}{{- '\n' + message.content }}{%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\n<tool_call>\n{"name": "' }}{{- tool_call.name }}{{- '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}{{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == "tool" %}
        {{- '<|im_start|>user\n<tool_response>\n' + message.content + '\n</tool_response><|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}"""

LLAMA = """{{- bos_token }}
{%- if tools is not none %}
    {{- "Environment: ipython\n" }}
    {%- for t in tools %}{{- t | tojson(indent=4) }}{{- "\n\n" }}{%- endfor %}
    {{- 'Respond in the format {"name": function name, "parameters": dictionary}.' }}
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>' + message['content'] | trim }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '{"name": "' + tool_call.name + '", "parameters": ' }}{{- tool_call.arguments | tojson }}
        {{- "}<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\n\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}{{- message.content }}{%- endif %}
    {%- endif %}
{%- endfor %}"""

MISTRAL = """{{- bos_token }}
{%- for message in messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and loop.first %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {{- '"' + key + '": ' + val|tojson }}{%- if not loop.last %}{{- ", " }}{%- endif %}
                {%- endfor %}
                {{- "}}" }}
            {%- endfor %}
            {{- "][/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {{- "[INST] " + message["content"] + "[/INST]" }}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[TOOL_CALLS] [" }}
        {%- for tool_call in message.tool_calls %}
            {%- set out = tool_call.function|tojson %}
            {{- out[:-1] }}
            {%- if not tool_call.id is defined or tool_call.id|length != 9 %}
                {{- raise_exception("Tool call IDs should be alphanumeric strings with length 9!") }}
            {%- endif %}
            {{- ', "id": "' + tool_call.id + '"}' }}
        {%- endfor %}
        {{- "]" + eos_token }}
    {%- elif message["role"] == "tool" %}
        {{- '[TOOL_RESULTS] {"content": ' + message.content|string + ', "call_id": "' }}
        {{- message.tool_call_id + '", "name": "' + (message.name or '') + '"}[/TOOL_RESULTS]' }}
    {%- elif message["role"] == "assistant" %}
        {{- message["content"] + eos_token }}
    {%- endif %}
{%- endfor %}"""

TEMPLATES = {"hermes": HERMES, "llama": LLAMA, "mistral": MISTRAL}
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Für <b>heute</b>",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
ASKED: dict[str, Any] = {"role": "user", "content": "How warm is it?"}
CALL = {
    "id": "abcdef123",
    "type": "function",
    "function": {"name": "get_weather", "arguments": {"city": "Zürich", "days": 1}},
}
CALLED: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": [CALL]}
ANSWERED: dict[str, Any] = {
    "role": "tool",
    "tool_call_id": "abcdef123",
    "name": "get_weather",
    "content": "21",
}
CONVERSATIONS = {
    "asked": [ASKED],
    "called": [ASKED, CALLED, ANSWERED],
    "said and called": [ASKED, {**CALLED, "content": "I look."}, ANSWERED],
    "answered": [ASKED, CALLED, ANSWERED, {"role": "assistant", "content": "21 °C"}, ASKED],
}


def on_the_wire(
    messages: list[dict[str, Any]], tools: list[dict[str, Any]], arguments: dict[str, Any]
) -> inference_pb2.Conversation:
    made = []
    for message in messages:
        calls = [
            inference_pb2.ToolCall(
                id=call["id"],
                name=call["function"]["name"],
                arguments=json.dumps(call["function"]["arguments"]),
            )
            for call in message.get("tool_calls", [])
        ]
        made.append(inference_pb2.ChatMessage(**{**message, "tool_calls": calls}))
    return inference_pb2.Conversation(
        messages=made,
        tools=[json.dumps(tool) for tool in tools],
        template_arguments=json.dumps(arguments) if arguments else "",
    )


def rendered(template: ChatTemplate, conversation: inference_pb2.Conversation) -> str:
    return template.render(
        messages_of(conversation), tools_of(conversation), arguments_of(conversation)
    )


@pytest.mark.parametrize("tools", [[], TOOLS], ids=["no tools", "tools"])
@pytest.mark.parametrize("arguments", [{}, {"enable_thinking": False}], ids=["", "arguments"])
@pytest.mark.parametrize("messages", CONVERSATIONS.values(), ids=CONVERSATIONS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_it_renders_as_with_transformers(
    name: str,
    messages: list[dict[str, Any]],
    arguments: dict[str, Any],
    tools: list[dict[str, Any]],
) -> None:
    asked: Any = {"chat_template": TEMPLATES[name], **TOKENS, **arguments}
    told: Any = tools or None
    truth: Any = render_jinja_template([messages], told, add_generation_prompt=True, **asked)
    ((expected,), _) = truth
    conversation = on_the_wire(messages, tools, arguments)
    template = ChatTemplate(TEMPLATES[name], TOKENS, 4 << 20)
    assert rendered(template, conversation) == expected


@pytest.mark.parametrize(
    ("conversation", "told"),
    [
        (inference_pb2.Conversation(tools=["{"]), r"tools\[0\]: it is no JSON"),
        (inference_pb2.Conversation(tools=["{}", "[]"]), r"tools\[1\]: got a list"),
        (inference_pb2.Conversation(tools=['{"a":' * 200_000]), r"tools\[0\]"),
        (inference_pb2.Conversation(template_arguments="1"), "template_arguments: got a int"),
        (inference_pb2.Conversation(template_arguments='{"tools": []}'), "got 'tools'"),
        (
            inference_pb2.Conversation(
                messages=[
                    inference_pb2.ChatMessage(tool_calls=[inference_pb2.ToolCall(arguments="x")])
                ]
            ),
            r"messages\[0\]\.tool_calls\[0\]\.arguments: it is no JSON",
        ),
    ],
    ids=["tools", "a list", "depth", "arguments", "reserved", "calls"],
)
def test_what_is_no_json_object_is_refused_by_its_place(
    conversation: inference_pb2.Conversation, told: str
) -> None:
    template = ChatTemplate(HERMES, TOKENS, 4 << 20)
    with pytest.raises(Refusal, match=told):
        rendered(template, conversation)
