"""`/v1/completions`: its fields, and the shape of its answers."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from lengthwise_router.frontends.http.answers import Answer, Shape
from lengthwise_router.frontends.http.logprobs import TextLogprobs, TokenTexts
from lengthwise_router.frontends.http.options import (
    MAX_CHOICES,
    ChoiceFields,
    shown,
    text,
    token_ids,
)
from lengthwise_wire.errors import InvalidRequest
from lengthwise_wire.v1 import common_pb2, inference_pb2

DEFAULT_MAX_TOKENS: Final = 16
"""OpenAI's."""


class CompletionOptions(ChoiceFields):
    """The fields of a call."""

    prompt: Any
    logprobs: int | None = None
    echo: bool | None = None

    @property
    def most_tokens(self) -> int:
        return DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens

    @property
    def echoes(self) -> bool:
        """Errors: InvalidRequest."""
        if self.echo and self.logprobs is not None:
            raise InvalidRequest(
                "echo: not together with logprobs: those of a prompt are not computed"
            )
        return bool(self.echo)


def prompts(given: object) -> list[inference_pb2.Prompt]:
    """A text, an array of texts, of token ids, or of arrays of token ids. Errors: InvalidRequest
    naming the field."""
    if not isinstance(given, list):
        return [_of_text(given, "prompt")]
    if not given:
        raise InvalidRequest("prompt: got an empty array, expected a text or token ids")
    if type(given[0]) is int:
        return [_of_ids(given, "prompt")]
    if len(given) > MAX_CHOICES:
        raise InvalidRequest(f"prompt: got {len(given)}, expected at most {MAX_CHOICES} prompts")
    of = _of_ids if isinstance(given[0], list) else _of_text
    return [of(prompt, f"prompt[{index}]") for index, prompt in enumerate(given)]


def _of_text(given: object, field: str) -> inference_pb2.Prompt:
    return inference_pb2.Prompt(text=text(field, given))


def _of_ids(given: object, field: str) -> inference_pb2.Prompt:
    if not isinstance(given, list):
        raise InvalidRequest(f"{field}: got {shown(given)}, expected an array of token ids")
    ids = token_ids(field, given)
    return inference_pb2.Prompt(token_ids=common_pb2.TokenIds(ids=ids))


class CompletionShape(Shape):
    """OpenAI's `text_completion`."""

    prefix = "cmpl"
    whole = piece = "text_completion"

    def __init__(
        self, texts: TokenTexts, echoed: Sequence[str], num_choices: int, count: int
    ) -> None:
        """`echoed`: the texts of the prompts, where they are to come first; each has
        `num_choices`, `count` in all."""
        self._texts = texts
        self._echoed = echoed
        self._num_choices = num_choices
        self._logprobs = [TextLogprobs(texts) for _ in range(count)]

    def choice(self, answer: Answer) -> Mapping[str, Any]:
        return self._fields(answer)

    def first(self) -> Mapping[str, Any] | None:
        return None

    def deltas(self, piece: Answer) -> Sequence[Mapping[str, Any]]:
        return [self._fields(piece)] if piece.text or piece.logprobs or piece.is_first else []

    def last(self) -> Mapping[str, Any]:
        return {"text": "", "logprobs": None}

    def _fields(self, answer: Answer) -> dict[str, Any]:
        echo = ""
        if self._echoed and answer.is_first:
            echo = self._echoed[answer.index // self._num_choices]
        logprobs = None
        if answer.logprobs is not None:
            logprobs = self._logprobs[answer.index].of(answer)
        return {"text": echo + answer.text, "logprobs": logprobs}
