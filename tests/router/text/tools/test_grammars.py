"""What a grammar of calls lets a model write is read as calls that the schemas accept."""

import random
from typing import Literal

import pytest
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from pydantic import BaseModel, ConfigDict, Field
from router.text.tools.formats import FUNCTIONS, TEMPLATES, format_of, parsed

from lengthwise_router.text.tools.parts import Function, FunctionCall


class Letters:
    """A token for each byte."""

    eos_token_id = 256
    bos_token_id = None
    tokens = (*(bytes((value,)) for value in range(256)), b"\xff<end>")
    special_token_ids = (256,)

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


TOKENIZER = LLTokenizer(TokenizerWrapper(Letters()), slices=[])


def written(grammar: str, seed: int) -> str:
    """A text of the grammar, at random."""
    matcher = LLMatcher(TOKENIZER, LLMatcher.grammar_from_lark(grammar), log_level=0)
    rng = random.Random(seed)
    text = bytearray()
    while len(text) < 5_000:
        mask = int.from_bytes(matcher.compute_bitmask(), "little")
        assert not matcher.get_error()
        usual = [*range(0x20, 0x7F), 0x0A, 256]
        allowed = [token for token in usual if mask >> token & 1]
        token = 256 if 256 in allowed and rng.random() < 0.7 else rng.choice(allowed)
        if token == 256:
            return text.decode()
        text.append(token)
        matcher.consume_token(token)
    raise AssertionError(f"it does not end: {text[:200]!r}")


REFERRING = Function(
    name="refer",
    parameters={
        "type": "object",
        "properties": {"x": {"$ref": "#/$defs/small"}, "flags": {"type": "array", "maxItems": 2,
                       "items": {"type": "boolean"}}},
        "required": ["x", "flags"],
        "additionalProperties": False,
        "$defs": {"small": {"type": "integer", "minimum": 0, "maximum": 9}},
    },
)  # fmt: skip


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class WeatherArguments(_Strict):
    city: str = Field(max_length=6)
    days: int = Field(ge=0, le=99)
    unit: Literal["C", "F"] | None = None


class StopArguments(_Strict):
    pass


class ReferArguments(_Strict):
    x: int = Field(ge=0, le=9)
    flags: list[bool] = Field(max_length=2)


ARGUMENTS: dict[str, type[BaseModel]] = {
    "get_weather": WeatherArguments,
    "stop": StopArguments,
    "refer": ReferArguments,
}


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("name", TEMPLATES)
def test_whatever_is_written_is_calls_with_arguments_that_the_schemas_accept(
    name: str, parallel: bool
) -> None:
    functions = (*FUNCTIONS, REFERRING)
    form = format_of(name)
    assert form.calls is not None
    grammar = form.calls.grammar(functions, parallel=parallel)
    called = set()
    for seed in range(40):
        text = written(grammar, seed)
        parts = parsed(form.parser(functions, is_forced=True), [text])
        assert parts
        assert parallel or len(parts) == 1
        for part in parts:
            assert isinstance(part, FunctionCall), text
            ARGUMENTS[part.name].model_validate_json(part.arguments)
            called.add(part.name)
    assert called == ARGUMENTS.keys()


@pytest.mark.parametrize("name", TEMPLATES)
def test_keywords_that_no_grammar_keeps_to_are_refused_in_strict_functions_alone(name: str) -> None:
    form = format_of(name)
    assert form.calls is not None
    array = {"type": "array", "uniqueItems": True, "items": {"type": "string"}}
    ahead = {"type": "array", "items": {"type": "string", "pattern": "^(?!x)"}}
    odd = {"type": "string", "minLength": 1} if name == "hermes" else {"type": "string"}
    properties = {"a": array, "pattern": ahead, "c": odd}
    schema = {"type": "object", "properties": properties, "required": ["a"]}
    for strict in (False, True):
        function = Function(name="f", parameters=schema, strict=strict)
        grammar = form.calls.grammar([function], parallel=False)
        error = LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(grammar))
        assert bool(error and not error.startswith("WARNING")) == strict
