"""The process in which constraints are compiled: Constraint in, a grammar of llguidance out. A few
bytes can say what takes gigabytes."""

import json
from collections.abc import Callable

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from lengthwise_router.text.sandbox.process import AFTER_REASONING, Refusal, serve
from lengthwise_wire.v1 import common_pb2

TRIED_BYTES = 32
"""What explodes does so within the first few: (a{1000}){1000} takes 3 s at a worker for its first
token, and 1 s here for its first byte."""

_END = 256
_REASONING = r"""start: reasoning /\n{0,2}/ @answer
reasoning[suffix="</think>"]: /(?s:.*)/
"""
_LIMITS = LLParserLimits(verbose_errors=False)


class _Bytes:
    """A tokenizer of one token for each byte."""

    eos_token_id = _END
    bos_token_id = None
    tokens = (*(bytes((value,)) for value in range(256)), b"\xff<end>")
    special_token_ids = (_END,)

    def __call__(self, data: bytes) -> list[int]:
        return list(data)


def _set_up(body: bytes) -> Callable[[bytes], bytes]:
    tokenizer = LLTokenizer(TokenizerWrapper(_Bytes()), slices=[])

    def answer(body: bytes) -> bytes:
        grammar = _grammar(common_pb2.Constraint.FromString(body[1:]))
        _check(LLMatcher.validate_grammar(grammar, limits=_LIMITS))
        _try(LLMatcher(tokenizer, grammar, limits=_LIMITS, log_level=0))
        return (_after_reasoning(grammar) if body[:1] == AFTER_REASONING else grammar).encode()

    return answer


def _grammar(constraint: common_pb2.Constraint) -> str:
    match constraint.WhichOneof("kind"):
        case "json_schema":
            try:
                schema = json.loads(constraint.json_schema)
            except (ValueError, RecursionError) as error:
                raise Refusal(f"it is no JSON: {error}") from error
            if not isinstance(schema, dict):
                raise Refusal(f"got a {type(schema).__name__}, expected an object")
            # A model that likes white space would fill a whole answer with it.
            compact = {"whitespace_flexible": False}
            try:
                return LLMatcher.grammar_from_json_schema(schema, overrides=compact)  # type: ignore[arg-type]
            except ValueError as error:  # such as a number that no 64 bits hold
                raise Refusal(str(error)) from error
        case "regex":
            return LLMatcher.grammar_from_regex(constraint.regex)
        case "lark":
            return LLMatcher.grammar_from_lark(constraint.lark)
        case _:
            choice = constraint.choice.texts
            texts = (json.dumps(text, ensure_ascii=False) for text in choice)
            return LLMatcher.grammar_from_lark(f"start: {' | '.join(texts)}")


def _after_reasoning(grammar: str) -> str:
    rules = (
        json.loads(grammar)["grammars"] if grammar.startswith("{") else [{"lark_grammar": grammar}]
    )
    rules[0]["name"] = "answer"
    return json.dumps({"grammars": [{"lark_grammar": _REASONING}, *rules]})


def _try(matcher: LLMatcher) -> None:
    """Follows it for a few bytes, the last ones that are allowed: letters before white space."""
    for count in range(TRIED_BYTES):
        allowed = int.from_bytes(matcher.compute_bitmask(), "little") & ((1 << _END) - 1)
        _check(matcher.get_error())
        if not allowed:
            if not count and not matcher.is_accepting():
                raise Refusal("no text is of it")
            return
        matcher.consume_token(allowed.bit_length() - 1)
        _check(matcher.get_error())


def _check(reason: str) -> None:
    if reason and not reason.startswith("WARNING"):
        raise Refusal(" ".join(reason.partition("<non-verbose")[0].split()))


if __name__ == "__main__":
    serve(_set_up)
