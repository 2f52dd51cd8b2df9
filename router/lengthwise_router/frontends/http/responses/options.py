"""The fields of a call."""

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

from lengthwise_router.frontends.http.errors import FieldNames
from lengthwise_router.frontends.http.options import CallFields, Text, shown
from lengthwise_router.frontends.http.response_format import TextFormatOfResponses
from lengthwise_router.frontends.http.tools.asked import AskedTools
from lengthwise_router.text.tools.answer_format import AnswerFormat
from lengthwise_wire.errors import InvalidRequest
from lengthwise_wire.limits import REQUEST_NUMBERS
from lengthwise_wire.v1 import common_pb2

LOGPROBS: Final = "message.output_text.logprobs"

INCLUDABLE: Final = (LOGPROBS, "reasoning.encrypted_content")
"""The second changes nothing: reasoning is told as it is."""

MAX_METADATA: Final = 16
MAX_KEY_CHARACTERS: Final = 64
MAX_VALUE_CHARACTERS: Final = 512
"""OpenAI's."""

NAMES: Final[FieldNames] = (
    ("prompt.conversation", "input"),
    ("prompt:", "input:"),
    ("stop.strings", "stop"),
    ("stop.token_ids", "stop_token_ids"),
    ("sampling.", ""),
    ("constraint.json_schema", "text.format"),
    ("constraint", "text.format"),
    ("max_tokens", "max_output_tokens"),
)
"""What the wire's messages begin with, and what it is called here."""


class TextConfig(BaseModel):
    """What the text of an answer is to be."""

    model_config = ConfigDict(strict=True, extra="forbid")

    format: TextFormatOfResponses | None = None
    verbosity: Literal["medium"] | None = None


class ResponseStreamOptions(BaseModel):
    """Of a stream of events."""

    model_config = ConfigDict(strict=True, extra="forbid")

    include_obfuscation: bool | None = None


class ResponseOptions(CallFields):
    """All that are served."""

    input: Any
    instructions: Text | None = None
    max_output_tokens: int | None = None
    text: TextConfig | None = None
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    include: list[str] | None = None
    top_logprobs: int | None = None
    metadata: dict[Text, Text] | None = None
    stream_options: ResponseStreamOptions | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @property
    def most_tokens(self) -> int | None:
        """Errors: InvalidRequest."""
        most = self.max_output_tokens
        return None if most is None else REQUEST_NUMBERS["max_tokens"].check("max_tokens", most)

    @property
    def alternatives(self) -> int | None:
        """Per token; None: no log probabilities. Errors: InvalidRequest."""
        for index, name in enumerate(self.include or ()):
            if name not in INCLUDABLE:
                raise InvalidRequest(
                    f"include[{index}]: got {shown(name)}, expected one of {', '.join(INCLUDABLE)}"
                )
        if LOGPROBS in (self.include or ()):
            return self.top_logprobs or 0
        if self.top_logprobs:
            raise InvalidRequest(f"top_logprobs: only together with include of {LOGPROBS}")
        return None

    def constraint(self, tools: AskedTools, form: AnswerFormat) -> common_pb2.Constraint | None:
        """Errors: InvalidRequest."""
        format_ = None if self.text is None else self.text.format
        wanted = None if format_ is None else format_.constraint
        if wanted is not None and tools.mode != "none":
            raise InvalidRequest(
                "text.format: not together with tools that may be called; set tool_choice to 'none'"
            )
        return wanted or tools.constraint(form)

    def check_metadata(self) -> None:
        """Errors: InvalidRequest."""
        given = self.metadata or {}
        if len(given) > MAX_METADATA:
            raise InvalidRequest(
                f"metadata: got {len(given)} pairs, expected at most {MAX_METADATA}"
            )
        for name, value in given.items():
            if len(name) > MAX_KEY_CHARACTERS or len(value) > MAX_VALUE_CHARACTERS:
                raise InvalidRequest(
                    f"metadata: got {shown(name)}, expected names of at most {MAX_KEY_CHARACTERS}"
                    f" characters and values of at most {MAX_VALUE_CHARACTERS}"
                )
