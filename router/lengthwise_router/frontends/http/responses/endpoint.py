"""The path: a call → the request that is served, and how it is answered."""

from typing import Any

from starlette.requests import Request

from lengthwise_router.frontends.http.body import Bodies
from lengthwise_router.frontends.http.chat import of_turns
from lengthwise_router.frontends.http.errors import NAMES_OF_CALL
from lengthwise_router.frontends.http.options import read_options, wire_requests
from lengthwise_router.frontends.http.responses.answers import ResponseAnswers
from lengthwise_router.frontends.http.responses.items import turns
from lengthwise_router.frontends.http.responses.options import NAMES, ResponseOptions
from lengthwise_router.frontends.http.responses.output import ResponseOutput
from lengthwise_router.frontends.http.tools.asked import AskedTools, asked_tools
from lengthwise_router.serving.service import InferenceService
from lengthwise_router.tenants import Caller
from lengthwise_router.text.tools.answer_format import AnswerFormat
from lengthwise_wire.v1 import inference_pb2

Asked = tuple[ResponseOptions, list[inference_pb2.GenerateRequest], ResponseAnswers]


async def asked_response(
    request: Request, service: InferenceService, caller: Caller, bodies: Bodies
) -> Asked:
    """Errors: HttpError, LengthwiseError."""
    setattr(request.state, NAMES_OF_CALL, NAMES)
    request_id = request.state.request_id

    def make(body: dict[str, Any]) -> tuple[ResponseOptions, AskedTools, Any]:
        options = read_options(ResponseOptions, "responses", body)
        options.check_metadata()
        tools = asked_tools(
            options.tools, options.tool_choice, options.parallel_tool_calls, is_flat=True
        )
        form = service.answer_format(options.model, caller)
        tools.check_model(form)
        prompt = of_turns(
            turns(options.input, options.instructions),
            tools=tools.in_prompt,
            template_arguments=options.chat_template_kwargs,
        )
        requests = wire_requests(
            options,
            [prompt],
            request_id=request_id,
            max_tokens=options.most_tokens,
            top_logprobs=options.alternatives,
            constraint=options.constraint(tools, form),
        )
        return options, tools, requests

    options, tools, requests = await bodies.read(request, make)
    form = service.answer_format(options.model, caller)
    await tools.check_schemas(service, form)
    answers = ResponseAnswers(
        request_id=request_id,
        echoed=_echoed(options),
        has_logprobs=requests[0].HasField("top_logprobs"),
        texts=service.token_texts(options.model, caller),
        new_output=lambda begins: _new_output(tools, form, begins_in_reasoning=begins),
    )
    return options, requests, answers


def _new_output(
    tools: AskedTools, form: AnswerFormat, *, begins_in_reasoning: bool
) -> ResponseOutput:
    parser = tools.parser(form, begins_in_reasoning=begins_in_reasoning)
    return ResponseOutput(parser, form.new_call_id)


def _echoed(options: ResponseOptions) -> dict[str, Any]:
    """What was asked for, or holds where nothing was."""
    format_ = None if options.text is None else options.text.format
    told = {"type": "text"} if format_ is None else format_.model_dump(by_alias=True)
    return {
        "background": False,
        "instructions": options.instructions,
        "max_output_tokens": options.max_output_tokens,
        "max_tool_calls": None,
        "metadata": options.metadata or {},
        "model": options.model,
        "parallel_tool_calls": options.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": None,
        "service_tier": "default",
        "store": False,
        "temperature": options.temperature,
        "text": {"format": told, "verbosity": "medium"},
        "tool_choice": options.tool_choice or "auto",
        "tools": options.tools or [],
        "top_logprobs": options.top_logprobs or 0,
        "top_p": options.top_p,
        "truncation": "disabled",
        "user": options.user,
    }
