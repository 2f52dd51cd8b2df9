"""Constraints of the output on their way to workers: compiled once, in a process of their own; what
cannot be compiled, or costs too much, is the caller's error."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from router.deployment import Deploy

from lengthwise_router.text.sandbox.grammar_compiler import MAX_KEPT, GrammarCompiler
from lengthwise_wire.errors import InvalidRequest
from lengthwise_wire.v1 import common_pb2

Constraint, Choice = common_pb2.Constraint, common_pb2.Choice


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def grammars() -> AsyncIterator[GrammarCompiler]:
    grammars = GrammarCompiler(max_waiting=8)
    running = asyncio.create_task(grammars.run())
    yield grammars
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await grammars.close()


async def compiled(grammars: GrammarCompiler, after_reasoning: bool = False, /, **kind: Any) -> str:
    grammar = grammars.compiled(Constraint(**kind), after_reasoning=after_reasoning)
    return grammar if isinstance(grammar, str) else await grammar


def schema(**keys: Any) -> dict[str, str]:
    return {"json_schema": json.dumps(keys)}


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        pytest.param({"json_schema": "{"}, "it is no JSON", id="no JSON"),
        pytest.param({"json_schema": "[" * 60_000}, "it is no JSON", id="deep JSON"),
        pytest.param({"json_schema": "[1]"}, "got a list, expected an object", id="a list"),
        pytest.param(schema(type="objekt"), "Invalid type: objekt", id="no such type"),
        pytest.param(schema(type="string", maxLength=2**70), "serializable", id="a huge number"),
        pytest.param(schema(enum=["\ud800"]), "constraint: ", id="a lone surrogate"),
        pytest.param(schema(type="string", enum=[1]), "Unsatisfiable", id="nothing is of it"),
        pytest.param(schema(**{"not": {}}), "Unimplemented keys", id="not implemented"),
        pytest.param(schema(**{"$ref": "#/x"}), "does not exist", id="no such reference"),
        pytest.param(schema(**{"$ref": "http://localhost:1/"}), "failed", id="a reference out"),
        pytest.param({"regex": "a(b"}, "unclosed group", id="an open group"),
        pytest.param({"regex": "(?=a)b"}, "look-around", id="look-around"),
        pytest.param({"regex": "(a?){1000}a{1000}"}, "too many", id="an explosion"),
        pytest.param(
            {"regex": "((a{100}){100}){100}"},
            "constraint: ",
            id="a larger explosion",
            marks=pytest.mark.slow,
        ),
        pytest.param({"lark": "start: foo"}, 'unknown name: "foo"', id="no such rule"),
        pytest.param({"lark": "start: A\nA: /a/ & /b/"}, "refuses", id="an empty intersection"),
    ],
)
async def test_what_does_not_compile_is_refused(
    grammars: GrammarCompiler, kind: dict[str, str], reason: str
) -> None:
    with pytest.raises(InvalidRequest, match="constraint: the grammar compiler") as refused:
        await compiled(grammars, **kind)
    assert reason in str(refused.value)
    assert len(str(refused.value)) < 1_200
    assert await compiled(grammars, regex="fine"), "the next is compiled"


@pytest.mark.asyncio(loop_scope="module")
async def test_what_was_compiled_is_remembered_up_to_a_bound(grammars: GrammarCompiler) -> None:
    first = await compiled(grammars, regex="a0")
    assert grammars.compiled(Constraint(regex="a0")) == first, "at once"
    for number in range(1, MAX_KEPT + 1):
        await compiled(grammars, regex=f"a{number}")
    assert not isinstance(grammars.compiled(Constraint(regex="a0")), str)


class Letters:
    """A token for each byte."""

    eos_token_id = 256
    bos_token_id = None
    tokens = (*(bytes((value,)) for value in range(256)), b"\xff<end>")
    special_token_ids = (256,)

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("kind", "text"),
    [
        pytest.param(schema(type="object", additionalProperties=False), "{}", id="a schema"),
        pytest.param({"regex": "a/\n+b"}, "a/\n\nb", id="a regex"),
        pytest.param({"lark": 'start: "x" | "(" start ")"'}, "((x))", id="a grammar"),
        pytest.param({"choice": {"texts": ["yes", "no"]}}, "no", id="a choice"),
    ],
)
async def test_after_reasoning_a_constraint_holds_from_its_end_on(
    grammars: GrammarCompiler, kind: dict[str, Any], text: str
) -> None:
    grammar = await compiled(grammars, True, **kind)
    assert grammar != await compiled(grammars, **kind)
    tokenizer = LLTokenizer(TokenizerWrapper(Letters()), slices=[])
    for thought in ("", "Hm. </think no </thin", "\n"):
        matcher = LLMatcher(tokenizer, grammar, log_level=0)
        for piece, may_end in ((f"{thought}</think>\n\n", False), (text, True)):
            assert matcher.try_consume_tokens(list(piece.encode())) == len(piece)
            assert matcher.is_accepting() == may_end
    with pytest.raises(InvalidRequest, match="unknown name"):
        await compiled(grammars, True, lark="start: foo")


async def test_both_workers_get_the_grammar(deploy: Deploy) -> None:
    deployment = await deploy()
    await deployment.generate(max_tokens=3, constraint=Constraint(regex="[a-z]+"))
    (prefill,), (reserve,) = deployment.prefill[0].requests, deployment.decode[0].reserves
    assert "[a-z]+" in prefill.grammar
    assert reserve.grammar == prefill.grammar


async def test_a_refusal_by_a_decode_worker_is_the_callers_error(deploy: Deploy) -> None:
    """A grammar may explode after any token; no other worker would follow it further."""
    deployment = await deploy(1, 2)
    for worker in deployment.decode:
        worker.end_error, worker.end_refuses = (2, "constraint: too large"), True
    error = await deployment.refused(max_tokens=8, constraint=Constraint(regex="[a-z]+"))
    assert (error.code().name, error.details()) == ("INVALID_ARGUMENT", "constraint: too large")
    assert sum(len(worker.reserves) for worker in deployment.decode) == 1
    await deployment.nothing_is_held()
