"""Paths → the service: what each takes and answers."""

import importlib.metadata
import time
from collections.abc import Sequence
from typing import Any

from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from lengthwise_router.config import RouterConfig
from lengthwise_router.frontends.http.answers import Call, ChoiceAnswers, Shape
from lengthwise_router.frontends.http.body import Bodies
from lengthwise_router.frontends.http.chat import ChatOptions, ChatShape, conversation
from lengthwise_router.frontends.http.completions import (
    CompletionOptions,
    CompletionShape,
    prompts,
)
from lengthwise_router.frontends.http.connections import connection_of
from lengthwise_router.frontends.http.front import RATE_LIMIT_HEADERS, Front
from lengthwise_router.frontends.http.generation import (
    Answering,
    Generating,
    GenerationResponse,
)
from lengthwise_router.frontends.http.options import (
    MAX_USER_CHARACTERS,
    CallFields,
    ChoiceFields,
    read_options,
    shown,
    text,
    token_ids,
    wire_requests,
)
from lengthwise_router.frontends.http.page.files import page_routes
from lengthwise_router.frontends.http.page.reports import Reports
from lengthwise_router.frontends.http.responses.endpoint import asked_response
from lengthwise_router.frontends.http.tools.asked import AskedTools, asked_tools
from lengthwise_router.serving.service import InferenceService
from lengthwise_router.tenants import Caller
from lengthwise_runtime.calls.places import Count
from lengthwise_runtime.health import Liveness
from lengthwise_runtime.tls.callers import CallerCheck, certificate_names
from lengthwise_wire.errors import InvalidRequest
from lengthwise_wire.v1 import inference_pb2

SERVICE = "lengthwise.v1.Inference"

Requests = list[inference_pb2.GenerateRequest]


class Endpoints:
    """What each path answers."""

    def __init__(
        self, service: InferenceService, config: RouterConfig, liveness: Liveness, count: Count
    ) -> None:
        tls = config.client_tls or config.tls
        self._service = service
        self._deadline_seconds = config.default_deadline_seconds
        self._liveness = liveness
        self._count = count
        self._bodies = Bodies(count, service.context_length)
        self._reports = Reports(service)
        callers = CallerCheck(tls.callers if tls is not None else None)
        self._checks = {
            method: callers.of(SERVICE, method)
            for method in ("Explain", "Generate", "GetModel", "GetStatus", "ListModels", "Tokenize")
        }
        self._started = int(time.time())

    async def chat(self, request: Request) -> Response:
        caller = self._caller(request, "Generate")

        def make(body: dict[str, Any]) -> tuple[ChatOptions, AskedTools, Requests]:
            options = read_options(ChatOptions, "chat", body)
            tools = asked_tools(options.tools, options.tool_choice, options.parallel_tool_calls)
            form = self._service.answer_format(options.model, caller)
            tools.check_model(form)
            arguments = options.chat_template_kwargs
            prompt = conversation(
                options.messages, tools=tools.in_prompt, template_arguments=arguments
            )
            return (
                options,
                tools,
                wire_requests(
                    options,
                    [prompt],
                    request_id=request.state.request_id,
                    max_tokens=options.most_tokens,
                    top_logprobs=options.alternatives,
                    constraint=options.constraint(tools, form),
                ),
            )

        options, tools, requests = await self._bodies.read(request, make)
        form = self._service.answer_format(options.model, caller)
        await tools.check_schemas(self._service, form)
        shape = ChatShape(self._service.token_texts(options.model, caller), tools, form)
        return self._choices(request, caller, options, requests, shape)

    async def completions(self, request: Request) -> Response:
        caller = self._caller(request, "Generate")

        def make(body: dict[str, Any]) -> tuple[CompletionOptions, Requests]:
            options = read_options(CompletionOptions, "completions", body)
            return options, wire_requests(
                options,
                prompts(options.prompt),
                request_id=request.state.request_id,
                max_tokens=options.most_tokens,
                top_logprobs=options.logprobs,
            )

        options, requests = await self._bodies.read(request, make)
        echoed = []
        if options.echoes:
            echoed = [await self._text_of(one.prompt, options.model, caller) for one in requests]
        shape = CompletionShape(
            self._service.token_texts(options.model, caller),
            echoed,
            options.num_choices,
            len(requests) * options.num_choices,
        )
        return self._choices(request, caller, options, requests, shape)

    async def responses(self, request: Request) -> Response:
        caller = self._caller(request, "Generate")
        asked = await asked_response(request, self._service, caller, self._bodies)
        return self._generating(caller, *asked)

    async def models(self, request: Request) -> Response:
        caller = self._caller(request, "ListModels")
        data = [self._told(model) for model in self._service.models(caller).models]
        return JSONResponse({"object": "list", "data": data})

    async def model(self, request: Request) -> Response:
        caller = self._caller(request, "GetModel")
        return JSONResponse(self._told(self._described(request.path_params["name"], caller)))

    async def tokenize(self, request: Request) -> Response:
        caller = self._caller(request, "Tokenize")
        message = await self._bodies.read(request, _tokenize_request)
        ids = list((await self._service.tokenize(message, caller)).token_ids)
        context = self._described(message.model, caller).context_length
        return JSONResponse({"tokens": ids, "count": len(ids), "max_model_len": context})

    async def detokenize(self, request: Request) -> Response:
        caller = self._caller(request, "Tokenize")
        ids, model = await self._bodies.read(request, _detokenize_request)
        return JSONResponse({"prompt": await self._service.detokenize(ids, model, caller)})

    async def explain(self, request: Request) -> Response:
        return self._reports.explanation(request, self._caller(request, "Explain"))

    async def status(self, request: Request) -> Response:
        return await self._reports.status(self._caller(request, "GetStatus"))

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        reason = self._liveness.trouble()
        return JSONResponse({"status": reason or "ok"}, 503 if reason else 200)

    async def version(self, request: Request) -> Response:
        return JSONResponse({"version": importlib.metadata.version("lengthwise")})

    def _choices(
        self,
        request: Request,
        caller: Caller,
        options: ChoiceFields,
        requests: Requests,
        shape: Shape,
    ) -> Response:
        call = Call(
            request_id=request.state.request_id,
            model=options.model,
            count=len(requests) * options.num_choices,
            has_logprobs=requests[0].HasField("top_logprobs"),
        )
        answers = ChoiceAnswers(call=call, shape=shape, include_usage=options.include_usage)
        return self._generating(caller, options, requests, answers)

    def _generating(
        self, caller: Caller, options: CallFields, requests: Requests, answering: Answering
    ) -> Response:
        generating = Generating(
            self._service,
            deadline_seconds=self._deadline_seconds,
            caller=caller,
            user=(options.user or "")[:MAX_USER_CHARACTERS],
        )
        return GenerationResponse(
            generating, requests, answering, self._count, streams=bool(options.stream)
        )

    async def _text_of(self, prompt: inference_pb2.Prompt, model: str, caller: Caller) -> str:
        if prompt.HasField("text"):
            return prompt.text
        return await self._service.detokenize(prompt.token_ids.ids, model, caller)

    def _described(self, name: str, caller: Caller) -> inference_pb2.GetModelResponse:
        return self._service.model(inference_pb2.GetModelRequest(model=name), caller)

    def _told(self, model: inference_pb2.GetModelResponse) -> dict[str, Any]:
        return {
            "id": model.model,
            "object": "model",
            "created": self._started,
            "owned_by": "lengthwise",
            "max_model_len": model.context_length,
            "has_chat_template": model.has_chat_template,
        }

    def _caller(self, request: Request, method: str) -> Caller:
        """Errors: PermissionDenied, Unauthenticated: the rules are those of gRPC."""
        peer = connection_of(request.scope).peer
        self._checks[method](peer)
        caller = self._service.caller(certificate_names(peer), request.headers.items())
        request.state.usage = caller.usage
        return caller


def _tokenize_request(body: dict[str, Any]) -> inference_pb2.TokenizeRequest:
    _only(body, "model", "prompt", "messages")
    if ("prompt" in body) == ("messages" in body):
        raise InvalidRequest("prompt: expected either prompt or messages")
    if "messages" in body:
        prompt = conversation(body["messages"])
    else:
        prompt = inference_pb2.Prompt(text=text("prompt", body["prompt"]))
    return inference_pb2.TokenizeRequest(
        model=text("model", body.get("model") or ""), prompt=prompt
    )


def _detokenize_request(body: dict[str, Any]) -> tuple[Sequence[int], str]:
    _only(body, "model", "tokens")
    ids = body.get("tokens")
    if not isinstance(ids, list):
        raise InvalidRequest(f"tokens: got {shown(ids)}, expected an array of token ids")
    return token_ids("tokens", ids), text("model", body.get("model") or "")


def _only(body: dict[str, Any], *names: str) -> None:
    for name in body:
        if name not in names:
            raise InvalidRequest(f"got field {shown(name)}, expected {', '.join(names)}")


def http_application(
    service: InferenceService, config: RouterConfig, liveness: Liveness, count: Count
) -> ASGIApp:
    """All paths, as one ASGI application."""
    endpoints = Endpoints(service, config, liveness, count)
    posts = {
        "/v1/chat/completions": endpoints.chat,
        "/v1/completions": endpoints.completions,
        "/v1/responses": endpoints.responses,
        "/tokenize": endpoints.tokenize,
        "/detokenize": endpoints.detokenize,
    }
    gets = {
        "/v1/models": endpoints.models,
        "/v1/models/{name:path}": endpoints.model,
        "/explain/{request_id:path}": endpoints.explain,
        "/status": endpoints.status,
        "/health": endpoints.health,
        "/ready": endpoints.ready,
        "/version": endpoints.version,
    }
    router = Router(
        [
            *(Route(path, endpoint, methods=["POST"]) for path, endpoint in posts.items()),
            *(Route(path, endpoint, methods=["GET"]) for path, endpoint in gets.items()),
            *(page_routes() if config.http.page else []),
        ],
        redirect_slashes=False,
    )
    app: ASGIApp = Front(router)
    if config.http.cors_origins:
        app = CORSMiddleware(
            app,
            allow_origins=list(config.http.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after", *RATE_LIMIT_HEADERS],
        )
    return app
