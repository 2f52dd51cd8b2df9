"""Which functions of a call may, or must, be called."""

import json
from dataclasses import dataclass
from typing import Any, Final, Literal

from lengthwise_router.text.tools.answer_format import AnswerFormat, AnswerParser
from lengthwise_router.text.tools.parts import Function
from lengthwise_wire.errors import InvalidRequest
from lengthwise_wire.limits import MAX_CONSTRAINT_BYTES, MAX_TOOLS
from lengthwise_wire.v1 import common_pb2, inference_pb2

Mode = Literal["none", "auto", "required"]

MAX_TOOLS_CHARACTERS: Final = 1 << 20
"""They are read in one go, which holds up all else."""

_MODES: Final[dict[int, Mode]] = {
    inference_pb2.TOOL_CHOICE_UNSPECIFIED: "auto",
    inference_pb2.TOOL_CHOICE_NONE: "none",
    inference_pb2.TOOL_CHOICE_REQUIRED: "required",
}

_NO_PARAMETERS: Final = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUse:
    """What a call says of functions."""

    functions: tuple[Function, ...] = ()
    mode: Mode = "none"
    chosen: Function | None = None  # the one that must be called
    parallel: bool = True

    @property
    def may_be_called(self) -> tuple[Function, ...]:
        if self.chosen is not None:
            return (self.chosen,)
        return self.functions if self.mode != "none" else ()

    def constraint(self, form: AnswerFormat) -> common_pb2.Constraint | None:
        """What the answer is held to where it must be a call. Errors: InvalidRequest."""
        return self.grammar(form, self.may_be_called) if self.mode == "required" else None

    def parser(self, form: AnswerFormat, *, begins_in_reasoning: bool) -> AnswerParser:
        return form.parser(
            self.may_be_called,
            is_forced=self.mode == "required",
            max_calls=None if self._is_parallel else 1,
            begins_in_reasoning=begins_in_reasoning,
        )

    def grammar(self, form: AnswerFormat, functions: tuple[Function, ...]) -> common_pb2.Constraint:
        """Of calls of these. Errors: InvalidRequest."""
        assert form.calls is not None
        size = sum(function.size for function in functions)
        if size > MAX_CONSTRAINT_BYTES:  # as it would be when it is made, which takes its time
            raise InvalidRequest(
                f"tools: got {size} characters of schemas, expected at most {MAX_CONSTRAINT_BYTES}"
            )
        try:
            grammar = form.calls.grammar(functions, parallel=self._is_parallel)
        except RecursionError:
            raise InvalidRequest("tools: a schema is nested too deep") from None
        return common_pb2.Constraint(lark=grammar)

    @property
    def _is_parallel(self) -> bool:
        return self.parallel and self.chosen is None


def asked_tool_use(message: inference_pb2.GenerateRequest, form: AnswerFormat) -> ToolUse:
    """Of a request that asks for parts. Errors: InvalidRequest."""
    asked, tools = message.parts, message.prompt.conversation.tools
    if not message.prompt.HasField("conversation"):
        raise InvalidRequest("parts: got no conversation, expected one as the prompt")
    if len(tools) > MAX_TOOLS:
        raise InvalidRequest(f"tools: got {len(tools)}, expected at most {MAX_TOOLS}")
    num_characters = sum(map(len, tools))
    if num_characters > MAX_TOOLS_CHARACTERS:
        raise InvalidRequest(
            f"tools: got {num_characters} characters, expected at most {MAX_TOOLS_CHARACTERS}"
        )
    if asked.tool_choice not in _MODES:
        raise InvalidRequest(f"parts.tool_choice: got {asked.tool_choice}, expected 0, 1 or 2")
    mode = "required" if asked.function else _MODES[asked.tool_choice]
    functions = tuple(_function(tool, f"tools[{index}]") for index, tool in enumerate(tools))
    by_name = {function.name: function for function in functions}
    if len(by_name) < len(functions):
        raise InvalidRequest("tools: got two functions of one name")
    if asked.function and asked.function not in by_name:
        raise InvalidRequest(f"parts.function: got {asked.function!r}, expected one of the tools")
    if mode == "required" and not functions:
        raise InvalidRequest("parts.tool_choice: got no tools, one of which must be called")
    if functions and mode != "none" and not form.takes_tools:
        raise InvalidRequest("tools: not supported: the model's chat template knows none")
    if mode == "required" and form.calls is None:
        raise InvalidRequest("parts.tool_choice: how this model writes calls is not known")
    if mode != "none" and functions and message.HasField("constraint"):
        raise InvalidRequest("constraint: not together with tools that may be called")
    return ToolUse(
        functions=functions,
        mode=mode,
        chosen=by_name.get(asked.function),
        parallel=not asked.single_call,
    )


def _function(text: str, field: str) -> Function:
    try:
        tool = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{field}: it is no JSON: {error}") from error
    function: Any = tool.get("function") if isinstance(tool, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not name:
        raise InvalidRequest(
            f'{field}: expected {{"type": "function", "function": {{"name": ...}}}}'
        )
    parameters = function.get("parameters", _NO_PARAMETERS)
    if not isinstance(parameters, dict) or parameters.get("type", "object") != "object":
        raise InvalidRequest(f"{field}.function.parameters: expected a JSON Schema of an object")
    return Function(
        name=name,
        parameters={"type": "object", **parameters},
        strict=function.get("strict") is True,
        size=len(text),
    )
