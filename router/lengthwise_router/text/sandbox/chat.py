"""Conversations → prompt text, by the checkpoint's own template.

Templates come with checkpoints, so they are code from elsewhere: they run in jinja2's immutable
sandbox, with the few names that templates made for `transformers` expect, and their output is
bounded. What they take of time and memory is bounded by the process that they run in.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lengthwise_router.text.sandbox.process import Refusal


class TemplateRefuses(Refusal):
    """The template does not compile, or does not render a conversation; the message says why."""


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}` marks what is trained on; serving prints its body."""

    tags = {"generation"}  # noqa: RUF012  # jinja2's own spelling

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(ImmutableSandboxedEnvironment):
    # Not while compiling: only conversations that come that far shall pay for what is too much.
    intercepted_binops = frozenset({"*", "**", "%"})


class ChatTemplate:
    """A compiled chat template."""

    def __init__(
        self,
        template: str,
        special_tokens: Mapping[str, str],
        max_characters: int,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        """`max_characters`: the most that it may render. Errors: TemplateRefuses."""
        environment = _Environment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda form: now().strftime(form)
        try:
            self._template = environment.from_string(template)
        # Compiling computes what is constant, which can fail in any way.
        except Exception as error:
            raise TemplateRefuses(_reason(error)) from error
        self._names = dict(special_tokens)
        self._max_characters = max_characters

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        arguments: Mapping[str, Any] | None = None,
    ) -> str:
        """`arguments`: further names.

        Errors: TemplateRefuses when it fails on the conversation, or raises an exception;
        MemoryError.
        """
        names = {
            **self._names,
            **(arguments or {}),
            "messages": list(messages),
            "tools": list(tools) or None,
            "documents": None,
            "add_generation_prompt": True,
        }
        pieces = []
        size = 0
        try:
            for piece in self._template.generate(names):
                pieces.append(piece)
                size += len(piece)
                if size > self._max_characters:
                    raise TemplateRefuses(
                        f"it renders more than {self._max_characters} characters, the most that is"
                        " accepted"
                    )
        except (TemplateRefuses, MemoryError):
            raise
        # A template is a program: it can fail in any way, and the conversation made it fail.
        except Exception as error:
            raise TemplateRefuses(_reason(error)) from error
        return "".join(pieces)


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    """As `transformers` has it: jinja2's own filter escapes HTML characters."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)
