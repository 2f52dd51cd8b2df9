"""Over gRPC an answer is told in parts where a request asks for them: the same as its text says,
also when it goes on elsewhere."""

import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from router import stub_workers
from router.deployment import Deployment, deployed
from router.stub_workers import MODEL

from lengthwise_wire.v1 import common_pb2
from lengthwise_wire.v1 import inference_pb2 as pb

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEMPLATE = (
    "{% for t in tools or [] %}<tool>{{ t.function.name }}{% endfor %}{# <tool_call> </think> #}"
    "{% for m in messages %}{{ m.content }}{% endfor %}{% if thinks %}<think>{% endif %}"
)
TOOL = json.dumps({"type": "function", "function": {"name": "f"}})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(
    stub_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Deployment]:
    folder = tmp_path_factory.mktemp("parts") / MODEL
    shutil.copytree(stub_checkpoint, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    async with deployed(folder, 1, 1, 0.002, {}) as deployment:
        yield deployment


def prompt(*tools: str, **arguments: Any) -> pb.Prompt:
    return pb.Prompt(
        conversation=pb.Conversation(
            messages=[pb.ChatMessage(role="user", content="hello")],
            tools=tools,
            template_arguments=json.dumps(arguments),
        )
    )


def joined(responses: list[pb.GenerateResponse], kind: str, choice: int = 0) -> str:
    parts = [part for each in responses if each.choice == choice for part in each.parts]
    assert all(part.WhichOneof("kind") == kind for part in parts)
    return "".join(getattr(part, kind) for part in parts)


@pytest.mark.parametrize(("thinks", "kind"), [(False, "content"), (True, "reasoning")])
async def test_parts_say_what_the_text_says_also_after_a_resumption(
    served: Deployment, thinks: bool, kind: str
) -> None:
    fields: Any = {"prompt": prompt(TOOL, thinks=thinks), "parts": pb.AskedParts()}
    whole = await served.generate(**fields, max_tokens=12)
    assert joined(whole.messages, kind) == whole.text
    ids = whole.token_ids[:5]
    rest = await served.generate(
        **fields,
        max_tokens=12,
        resume=pb.Resume(token_ids=ids),
        sampling=common_pb2.SamplingParams(seed=whole.messages[0].seed),
    )
    assert joined(rest.messages, kind) == rest.text == whole.text[5:]


CALLED = 'So: <tool_call>{"name": "f", "arguments": {"a": [1, 2]}}</tool_call><tool_call>{"na'


def told(parts: list[pb.AnswerPart]) -> list[tuple[str, str]]:
    """With pieces of the same as one, and without ids, which are drawn."""
    made: list[tuple[str, str]] = []
    for part in parts:
        kind = str(part.WhichOneof("kind"))
        value = part.call.name if kind == "call" else str(getattr(part, kind))
        if made and made[-1][0] == kind in ("content", "arguments"):
            value = made.pop()[1] + value
        made.append((kind, value))
    return made


@pytest.mark.slow
async def test_a_call_goes_on_where_its_router_was_lost(
    served: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = CALLED.encode()
    begin = len(b"<tool>fhello")
    monkeypatch.setattr(stub_workers, "stub_next_token", lambda ids: written[len(ids) - begin])
    fields: Any = {"prompt": prompt(TOOL), "parts": pb.AskedParts(), "max_tokens": len(written)}
    whole = await served.generate(**fields)
    assert whole.text == CALLED
    parts = [part for message in whole.messages for part in message.parts]
    assert told(parts) == [
        ("content", "So: "),
        ("call", "f"),
        ("arguments", '{"a": [1, 2]}'),
        ("calls_end", ""),
        ("content", '<tool_call>{"na'),
    ]
    sampling = common_pb2.SamplingParams(seed=whole.messages[0].seed)
    for count in range(3, len(whole.messages), 20):
        received = whole.messages[:count]
        ids = [token_id for message in received for token_id in message.token_ids]
        rest = await served.generate(**fields, resume=pb.Resume(token_ids=ids), sampling=sampling)
        both = [part for message in (*received, *rest.messages) for part in message.parts]
        assert told(both) == told(parts), ids


async def test_each_choice_has_parts_of_its_own(served: Deployment) -> None:
    messages = []
    call = served.call(prompt=prompt(TOOL), parts=pb.AskedParts(), max_tokens=6, n=2)
    async for message in call:
        messages.append(message)
    for choice in (0, 1):
        text = "".join(each.text for each in messages if each.choice == choice)
        assert joined(messages, "content", choice) == text
        assert len(text) == 6


async def test_without_asking_there_are_none_and_the_prompt_has_the_tools(
    served: Deployment,
) -> None:
    plain = await served.generate(prompt=prompt(TOOL), max_tokens=3)
    assert not any(message.parts for message in plain.messages)
    with_tools = bytes(served.decode[0].reserves[-1].token_ids)
    assert with_tools.startswith(b"<tool>f")
    none = pb.AskedParts(tool_choice=pb.TOOL_CHOICE_NONE)
    await served.generate(prompt=prompt(TOOL), parts=none, max_tokens=3)
    assert not bytes(served.decode[0].reserves[-1].token_ids).startswith(b"<tool>")


REQUIRED = pb.AskedParts(tool_choice=pb.TOOL_CHOICE_REQUIRED)
WRONG: list[tuple[pb.Prompt, pb.AskedParts, str]] = [
    (pb.Prompt(text="a"), pb.AskedParts(), "parts: got no conversation"),
    (prompt("{"), pb.AskedParts(), "tools[0]: it is no JSON"),
    (prompt("[" * 100_000), pb.AskedParts(), "tools[0]: it is no JSON"),
    (prompt("[]"), pb.AskedParts(), "tools[0]: expected"),
    (prompt('{"function": {"name": 5}}'), pb.AskedParts(), "tools[0]: expected"),
    (prompt(TOOL, TOOL), pb.AskedParts(), "two functions of one name"),
    (prompt(*[TOOL] * 129), pb.AskedParts(), "tools: got 129"),
    (prompt('"' + "a" * (1 << 20) + '"'), pb.AskedParts(), "tools: got 1048578 characters"),
    (prompt(TOOL), pb.AskedParts(function="g"), "parts.function: got 'g'"),
    (prompt(), REQUIRED, "parts.tool_choice: got no tools"),
    (
        prompt(TOOL.replace('"f"', '"f", "parameters": {"type": "string"}')),
        pb.AskedParts(),
        "expected a JSON Schema of an object",
    ),
    (
        prompt(TOOL.replace('"f"', '"f", "parameters": {"enum": ["' + "a" * 70_000 + '"]}')),
        REQUIRED,
        "characters of schemas",
    ),
]


@pytest.mark.parametrize(("given", "asked", "told"), WRONG)
async def test_what_is_asked_wrongly_is_refused(
    served: Deployment, given: pb.Prompt, asked: pb.AskedParts, told: str
) -> None:
    error = await served.refused(prompt=given, parts=asked, max_tokens=3)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert told in error.details()


async def test_an_unknown_choice_and_a_name_that_is_no_text_are_refused(
    served: Deployment,
) -> None:
    unknown = pb.AskedParts()
    unknown.MergeFromString(b"\x08\x07")
    error = await served.refused(prompt=prompt(TOOL), parts=unknown, max_tokens=3)
    assert "parts.tool_choice: got 7" in error.details()
    surrogate = TOOL.replace('"f"', '"\\ud800"')
    error = await served.refused(prompt=prompt(surrogate), parts=pb.AskedParts(), max_tokens=3)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
