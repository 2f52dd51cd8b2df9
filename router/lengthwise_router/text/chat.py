"""Conversations → prompt text, by the checkpoint's own template.

Templates come with checkpoints, so they are code from elsewhere: they run in jinja2's immutable
sandbox, with the few names that templates made for `transformers` expect, and their output is
bounded.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lengthwise_runtime.config import ConfigError
from lengthwise_wire.errors import InvalidRequest
from lengthwise_wire.limits import MAX_PROMPT_BYTES


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}` marks what is trained on; serving prints its body."""

    tags = {"generation"}  # noqa: RUF012  # jinja2's own spelling

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """A compiled chat template."""

    def __init__(
        self,
        source: str,
        special_tokens: Mapping[str, str],
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        """Errors: ConfigError when the template does not compile."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda form: now().strftime(form)
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ConfigError(f"the chat template does not compile: {error}") from error
        self._names = dict(special_tokens)

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Errors: InvalidRequest when the template refuses the conversation or fails on it."""
        pieces = []
        size = 0
        try:
            for piece in self._template.generate(
                messages=list(messages),
                tools=None,
                documents=None,
                add_generation_prompt=True,
                **self._names,
            ):
                pieces.append(piece)
                size += len(piece)
                if size > MAX_PROMPT_BYTES:
                    raise InvalidRequest(
                        f"prompt.conversation: rendered to more than {MAX_PROMPT_BYTES} characters,"
                        " the most that is accepted"
                    )
        except InvalidRequest:
            raise
        # A template is a program: it can fail in any way, and the conversation made it fail.
        except Exception as error:
            raise InvalidRequest(
                "prompt.conversation: the model's chat template refuses it:"
                f" {str(error) or type(error).__name__}"
            ) from error
        return "".join(pieces)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    """As `transformers` has it: jinja2's own filter escapes HTML characters."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)
