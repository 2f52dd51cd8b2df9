"""Chat templates are programs from elsewhere: what they may see is nothing, and what they may take
of time and memory is bounded, whoever else waits."""

import asyncio
import contextlib
import resource
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import grpc
import pytest
from faults.checkpoints import write_json
from faults.processes import Serve, alone, peak_mib

from lengthwise_engine.toy.checkpoint import write_toy_checkpoint
from lengthwise_local import Process
from lengthwise_wire.v1 import inference_pb2, inference_pb2_grpc

MEMORY_BYTES = 4 << 30
"""A router gets no more, so that a template that takes all cannot hurt the machine."""

BOMBS: Mapping[str, str] = {
    "loops in loops": "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}"
    "{% endfor %}x",
    "a power": "{{ ((8 + messages|length) ** 99999999) % 7 }}",
    "a long text": "{{ (messages[0].role * 150000000)|length }}",
}

BOUNDED: Mapping[str, str] = {
    "a constant text": "{{ 'a' * (64 * 1024 * 1024) }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
}

ESCAPES: Sequence[str] = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__globals__['datetime'] }}",
    "{{ strftime_now.__closure__ }}",
    "{{ messages.__class__ }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ lipsum.__globals__['os'] }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ '{0.__class__}'.format('x') }}",
    "{{ ('%c'|format(95)~'_class_'~'_') }}{{ ''|attr('__class__') }}",
    "{{ (namespace())._Namespace__attrs }}",
    "{{ messages.append('x') }}",
    "{{ messages[0].update({'a': 1}) }}",
    "{{ config.items() }}",
    "{{ joiner.__init__.__globals__ }}",
    "{% import 'x' as y %}",
    "{% include '/etc/passwd' %}",
    "{{ tojson.__globals__ }}",
    "{{ messages|map(attribute='__class__')|list }}",
    "{{ dict.mro() }}",
    "{{ range.__class__ }}",
    "{{ [].append.__self__ }}",
    "{{ '{a.__class__}'.format_map({'a': 1}) }}",
    "{{ messages|tojson(default=raise_exception) }}",
    "{{ messages|tojson(cls=dict) }}",
)
SEEN = ("<class", "<function", "<module", "uid=", "root:")


def switched(templates: Mapping[str, str]) -> str:
    """One template that does what the first message's content names."""
    cases = (
        f"{{% if messages[0].content == '{name}' %}}{template}{{% endif %}}"
        for name, template in templates.items()
    )
    return "".join(cases)


def asking(content: str) -> inference_pb2.TokenizeRequest:
    turn = inference_pb2.ChatMessage(role="user", content=content)
    conversation = inference_pb2.Conversation(messages=[turn])
    return inference_pb2.TokenizeRequest(prompt=inference_pb2.Prompt(conversation=conversation))


async def test_no_template_sees_anything_but_the_conversation(toy: Path, serve: Serve) -> None:
    escapes = {f"escape {number}": escape for number, escape in enumerate(ESCAPES)}
    write_json(toy, "tokenizer_config.json", {"chat_template": switched(escapes)})
    deployment = await serve(toy)
    for name, escape in escapes.items():
        with contextlib.suppress(grpc.aio.AioRpcError):  # as most are refused
            reply = await deployment.stub.Tokenize(asking(name), timeout=5)
            text = bytes(token_id for token_id in reply.token_ids if token_id < 256).decode()
            assert not any(seen in text for seen in SEEN), escape


async def test_what_a_template_writes_and_how_deep_it_goes_is_bounded(
    toy: Path, serve: Serve
) -> None:
    write_json(toy, "tokenizer_config.json", {"chat_template": switched(BOUNDED)})
    deployment = await serve(toy)
    for name in BOUNDED:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await deployment.stub.Tokenize(asking(name), timeout=20)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("bombs")
    model = write_toy_checkpoint(folder / "toy")
    write_json(model, "tokenizer_config.json", {"chat_template": switched(BOMBS)})
    with alone("router", model, folder) as router:
        yield router


@pytest.fixture
def router(started: Process) -> Process:
    """Another one, where a test before has hung it for ever."""
    try:
        with grpc.insecure_channel(started.address) as channel:
            stub = inference_pb2_grpc.InferenceStub(channel)
            stub.GetModel(inference_pb2.GetModelRequest(), timeout=5)
    except grpc.RpcError:
        started.restart()
    resource.prlimit(started.pid, resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    return started


@pytest.mark.slow
@pytest.mark.parametrize("name", ["loops in loops", "a power"])
async def test_others_are_served_while_a_template_does_not_end(router: Process, name: str) -> None:
    others = grpc.aio.insecure_channel(router.address, [("grpc.use_local_subchannel_pool", 1)])
    async with grpc.aio.insecure_channel(router.address) as channel, others:
        hung = inference_pb2_grpc.InferenceStub(channel).Tokenize(asking(name), timeout=30)
        for _ in range(5):
            await asyncio.sleep(0.1)
            stub = inference_pb2_grpc.InferenceStub(others)
            await stub.GetModel(inference_pb2.GetModelRequest(), timeout=5)
        hung.cancel()


@pytest.mark.slow
async def test_a_template_that_takes_600_mb_takes_them_not_of_the_router(router: Process) -> None:
    async with grpc.aio.insecure_channel(router.address) as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        with contextlib.suppress(grpc.aio.AioRpcError):  # it may well be refused
            await stub.Tokenize(asking("a long text"), timeout=20)
    assert peak_mib(router) < 300
