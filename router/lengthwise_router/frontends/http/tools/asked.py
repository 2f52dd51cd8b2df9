"""`tools`, `tool_choice` and `parallel_tool_calls` → which functions may, or must, be called."""

import re
from dataclasses import dataclass
from typing import Any, Final

from lengthwise_router.frontends.http.errors import HttpError
from lengthwise_router.frontends.http.options import json_text, shown
from lengthwise_router.serving.service import InferenceService
from lengthwise_router.text.tools.answer_format import AnswerFormat
from lengthwise_router.text.tools.parts import Function
from lengthwise_router.text.tools.tool_use import Mode, ToolUse
from lengthwise_wire.constraints import check_constraint
from lengthwise_wire.errors import InvalidRequest
from lengthwise_wire.limits import MAX_TOOLS
from lengthwise_wire.v1 import common_pb2

MODES: Final[dict[object, Mode]] = {"none": "none", "auto": "auto", "required": "required"}

_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedTools(ToolUse):
    """What a call says of functions."""

    texts: tuple[str, ...] = ()  # the functions, as they were sent
    is_flat: bool = False  # as `/v1/responses` has them: without `function` around each

    @property
    def in_prompt(self) -> tuple[str, ...]:
        return self.texts if self.mode != "none" else ()

    def check_model(self, form: AnswerFormat) -> None:
        """Errors: HttpError where a model knows no tools."""
        if self.mode != "none" and not form.takes_tools:
            raise HttpError(
                400, "tools: not supported: the model's chat template knows none", param="tools",
                code="unsupported_parameter",
            )  # fmt: skip
        if self.mode == "required" and form.calls is None:
            raise HttpError(
                400, "tool_choice: not supported: how this model writes calls is not known",
                param="tool_choice", code="unsupported_parameter",
            )  # fmt: skip

    async def check_schemas(self, service: InferenceService, form: AnswerFormat) -> None:
        """Errors: HttpError naming the function whose schema does not compile; Overloaded."""
        if form.calls is None or not self.may_be_called:
            return
        try:
            await _check(service, self.grammar(form, self.may_be_called))
        except InvalidRequest as error:
            for index, function in enumerate(self.functions):
                if function in self.may_be_called:
                    await self._check_alone(service, form, index, function)
            if self.mode == "required":
                raise HttpError(
                    400, f"tools: too large for tool_choice 'required': {error}", param="tools"
                ) from None

    async def _check_alone(
        self, service: InferenceService, form: AnswerFormat, index: int, function: Function
    ) -> None:
        try:
            await _check(service, self.grammar(form, (function,)))
        except InvalidRequest as error:
            reason = str(error).partition("refuses it: ")[2] or str(error)
            raise HttpError(
                400, f"Invalid schema for function '{function.name}': {reason}",
                param=f"tools[{index}]{'' if self.is_flat else '.function'}.parameters",
                code="invalid_function_parameters",
            ) from None  # fmt: skip


async def _check(service: InferenceService, constraint: common_pb2.Constraint) -> None:
    check_constraint(constraint)
    await service.check_constraint(constraint)


def asked_tools(
    tools: object, choice: object, parallel: bool | None, *, is_flat: bool = False
) -> AskedTools:
    """Errors: HttpError, InvalidRequest."""
    if tools is None or tools == []:
        if choice not in (None, "none", "auto"):
            raise HttpError(
                400, "'tool_choice' is only allowed when 'tools' are specified.",
                param="tool_choice",
            )  # fmt: skip
        return AskedTools()
    if not isinstance(tools, list):
        raise InvalidRequest(f"tools: got {shown(tools)}, expected an array of tools")
    if len(tools) > MAX_TOOLS:
        raise HttpError(
            400, f"Invalid 'tools': array too long. Expected an array with maximum length"
            f" {MAX_TOOLS}, but got an array with length {len(tools)} instead.",
            param="tools", code="array_above_max_length",
        )  # fmt: skip
    place = "" if is_flat else ".function"
    functions = tuple(
        _function(tool, f"tools[{index}]", is_flat=is_flat) for index, tool in enumerate(tools)
    )
    names: dict[str, int] = {}
    for index, function in enumerate(functions):
        if names.setdefault(function.name, index) != index:
            raise _invalid(f"tools[{index}]{place}.name", f"duplicate name '{function.name}'")
    texts = tuple(
        json_text(f"tools[{index}]", _nested(tool) if is_flat else tool)
        for index, tool in enumerate(tools)
    )
    by_name = {function.name: function for function in functions}
    mode, chosen = _choice(choice, by_name, is_flat=is_flat)
    return AskedTools(
        functions=functions,
        texts=texts,
        mode=mode,
        chosen=chosen,
        parallel=parallel is not False,
        is_flat=is_flat,
    )


def _nested(tool: dict[str, Any]) -> dict[str, Any]:
    """As chat templates take it."""
    names = ("name", "description", "parameters", "strict")
    function = {name: tool[name] for name in names if tool.get(name) is not None}
    return {"type": "function", "function": function}


def _function(tool: object, field: str, *, is_flat: bool) -> Function:
    if not isinstance(tool, dict):
        raise InvalidRequest(f"{field}: got {shown(tool)}, expected an object")
    _check_kind(tool, field)
    function: object = tool
    if not is_flat:
        function = tool.get("function")
        field += ".function"
    if not isinstance(function, dict):
        raise _missing(field) if function is None else _invalid(field, "expected an object")
    parameters, strict = function.get("parameters"), function.get("strict")
    if not isinstance(function.get("description"), str | None):
        raise _invalid(f"{field}.description", "expected a string")
    if not isinstance(strict, bool | None):
        raise _invalid(f"{field}.strict", "expected a boolean")
    name = _function_name(function, field)
    return Function(
        name=name,
        parameters=_parameters(parameters, name, f"{field}.parameters"),
        strict=bool(strict),
        size=len(json_text(f"{field}.parameters", parameters)),
    )


def _parameters(given: object, name: str, field: str) -> dict[str, Any]:
    if given is None:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    if not isinstance(given, dict):
        raise _invalid(field, f"got {shown(given)}, expected an object")
    if given.get("type", "object") != "object":
        raise HttpError(
            400, f"Invalid schema for function '{name}': schema must be a JSON Schema of"
            f" 'type: \"object\"', got 'type: {shown(given['type'])}'.",
            param=field, code="invalid_function_parameters",
        )  # fmt: skip
    return {"type": "object", **given}


def _function_name(function: dict[str, Any], field: str) -> str:
    name = function.get("name")
    field += ".name"
    if name is None:
        raise _missing(field)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _invalid(
            field,
            f"got {shown(name)}. Expected a string of 1 to 64 characters that matches the pattern"
            " '^[a-zA-Z0-9_-]+$'.",
        )
    return name


def _check_kind(given: dict[str, Any], field: str) -> None:
    kind = given.get("type")
    if kind is None:
        raise _missing(f"{field}.type")
    if kind != "function":
        raise HttpError(
            400, f"Invalid value: {shown(kind)}. Supported values are: 'function'.",
            param=f"{field}.type", code="invalid_value",
        )  # fmt: skip


def _choice(
    choice: object, functions: dict[str, Function], *, is_flat: bool
) -> tuple[Mode, Function | None]:
    if choice is None:
        return "auto", None
    if isinstance(choice, str):
        if choice in MODES:
            return MODES[choice], None
        raise HttpError(
            400, f"Invalid value: {shown(choice)}. Supported values are: 'none', 'auto', and"
            " 'required'.", param="tool_choice", code="invalid_value",
        )  # fmt: skip
    if not isinstance(choice, dict):
        raise _invalid("tool_choice", f"got {shown(choice)}, expected a string or an object")
    _check_kind(choice, "tool_choice")
    function = choice if is_flat else choice.get("function")
    if not isinstance(function, dict):
        raise _missing("tool_choice.function")
    name = _function_name(function, "tool_choice" if is_flat else "tool_choice.function")
    if name not in functions:
        raise HttpError(
            400, f"Invalid value for 'tool_choice': no function named '{name}' was specified in"
            " the 'tools' parameter.", param="tool_choice",
        )  # fmt: skip
    return "required", functions[name]


def _missing(field: str) -> HttpError:
    message = f"Missing required parameter: '{field}'."
    return HttpError(400, message, param=field, code="missing_required_parameter")


def _invalid(field: str, reason: str) -> HttpError:
    return HttpError(400, f"Invalid '{field}': {reason}", param=field, code="invalid_value")
