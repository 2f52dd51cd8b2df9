"""What is done with each field of a request's body: the one table that the code goes by, and that
docs/http.md prints."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from lengthwise_router.frontends.http.errors import HttpError

Endpoint = Literal["chat", "completions", "responses"]

Handling = Literal["served", "ignored", "refused"]

BOTH: Final[tuple[Endpoint, ...]] = ("chat", "completions")
CHAT: Final[tuple[Endpoint, ...]] = ("chat",)
COMPLETIONS: Final[tuple[Endpoint, ...]] = ("completions",)
RESPONSES: Final[tuple[Endpoint, ...]] = ("responses",)
ALL: Final[tuple[Endpoint, ...]] = (*BOTH, *RESPONSES)
TALKS: Final[tuple[Endpoint, ...]] = (*CHAT, *RESPONSES)


@dataclass(frozen=True, slots=True)
class Field:
    """One field of one or more endpoints."""

    name: str
    endpoints: tuple[Endpoint, ...]
    handling: Handling
    note: str = ""
    neutral: tuple[Any, ...] = ()
    """Of one that is refused: values beside null that ask for nothing."""
    is_ours: bool = False
    """Not in OpenAI's API."""

    @property
    def row(self) -> str:
        """Of the table in docs/http.md."""
        where = " ".join(self.endpoints)
        handling = "ours" if self.is_ours else self.handling
        neutral = " ".join(f"`{json.dumps(value)}`" for value in self.neutral)
        note = f"{self.note}; {neutral} may be sent" if neutral else self.note
        return f"| `{self.name}` | {where} | {handling} | {note} |"


def _served(name: str, endpoints: tuple[Endpoint, ...], note: str = "") -> Field:
    return Field(name, endpoints, "served", note)


def _ours(name: str, endpoints: tuple[Endpoint, ...], note: str = "") -> Field:
    return Field(name, endpoints, "served", note, is_ours=True)


def _ignored(name: str, endpoints: tuple[Endpoint, ...], note: str) -> Field:
    return Field(name, endpoints, "ignored", note)


def _refused(name: str, endpoints: tuple[Endpoint, ...], note: str, *neutral: Any) -> Field:
    return Field(name, endpoints, "refused", note, neutral)


_NO_EFFORT: Final = ({"effort": "none"}, {"effort": None, "summary": None})

FIELDS: Final = (
    _served("model", ALL, "required; one that is served"),
    _served("messages", CHAT, "text, whole or in parts, which are joined; `developer` is `system`"),
    _served("prompt", COMPLETIONS, "a text, token ids, or an array of either"),
    _served("max_tokens", BOTH, "default: 16 for completions, what fits for chat"),
    _served("max_completion_tokens", CHAT, "not together with `max_tokens`"),
    _served("temperature", ALL, "0 to 100; default: the checkpoint's"),
    _served("top_p", ALL, "default: the checkpoint's"),
    _served("n", BOTH, "the prompt is computed once; `seed` + i; prompts times n <= 128"),
    _served("seed", BOTH, "equal seeds give equal tokens"),
    _served("stop", BOTH, "16 texts of 256 characters at most"),
    _served("stream", ALL, "server-sent events"),
    _served(
        "stream_options",
        BOTH,
        "`include_usage`; `include_obfuscation`, `continuous_usage_stats` are ignored",
    ),
    _served(
        "logprobs",
        BOTH,
        "0 to 20 for completions; 65,536 in an answer that is not streamed",
    ),
    _served("top_logprobs", CHAT, "0 to 20, with `logprobs`"),
    _served("top_logprobs", RESPONSES, "0 to 20, with `include` of log probabilities"),
    _served("logit_bias", BOTH, "300 tokens at most"),
    _served("presence_penalty", BOTH),
    _served("frequency_penalty", BOTH),
    _served("response_format", CHAT, "a schema is always kept to, `strict` or not"),
    _served("tools", TALKS, "128 functions at most"),
    _served("tool_choice", TALKS, "`none`, `auto`, `required` or a function, held to by a grammar"),
    _served("parallel_tool_calls", TALKS, "false: one call at most"),
    _served("echo", COMPLETIONS, "not together with `logprobs`"),
    _served("user", ALL, "in the request log; neither a tenant nor a cache salt"),
    _served("input", RESPONSES, "a text, or items: messages, calls, their results, reasoning"),
    _served("instructions", RESPONSES, "the first message, of `system`"),
    _served("max_output_tokens", RESPONSES, "default: what fits"),
    _served("text", RESPONSES, "`format`, which is always kept to; `verbosity` of `medium`"),
    _served("include", RESPONSES, "`message.output_text.logprobs`"),
    _served("metadata", RESPONSES, "16 pairs at most; sent back, not stored"),
    _served("stream_options", RESPONSES, "`include_obfuscation` is ignored"),
    _ours("seed", RESPONSES, "equal seeds give equal tokens"),
    _ours("stop", RESPONSES, "16 texts of 256 characters at most"),
    _ours("logit_bias", RESPONSES, "300 tokens at most"),
    _ours("presence_penalty", RESPONSES),
    _ours("frequency_penalty", RESPONSES),
    _ours("chat_template_kwargs", TALKS, "further names of the chat template: `enable_thinking`"),
    _ours("top_k", ALL, "0: all"),
    _ours("min_p", ALL),
    _ours("repetition_penalty", ALL),
    _ours("min_tokens", ALL),
    _ours("ignore_eos", ALL, "go on past the end"),
    _ours("stop_token_ids", ALL, "256 at most"),
    _ours("priority", ALL, "-100 to 100; higher is served first"),
    _ours("tenant", ALL, "fair shares; a certificate or an API key decides where there is one"),
    _ours("cache_salt", ALL, "cached prefixes are shared with equal salts alone"),
    _ignored("metadata", CHAT, "nothing is stored"),
    _ignored("prompt_cache_key", TALKS, "prefixes are found by their content"),
    _ignored("prompt_cache_retention", TALKS, "a hint"),
    _ignored("prompt_cache_options", TALKS, "a hint"),
    _ignored("prediction", CHAT, "a hint"),
    _ignored("safety_identifier", TALKS, "there is no moderation"),
    _ignored("max_tool_calls", RESPONSES, "there are no built-in tools"),
    _refused("best_of", COMPLETIONS, "candidates are not ranked; use n", 1),
    _refused("suffix", COMPLETIONS, "the models served do not fill in", ""),
    _refused("functions", CHAT, "deprecated; use tools", []),
    _refused("function_call", CHAT, "deprecated; use tool_choice", "none", "auto"),
    _refused("modalities", CHAT, "text alone", ["text"]),
    _refused("audio", CHAT, "text alone"),
    _refused("moderation", TALKS, "there is none"),
    _refused("web_search_options", CHAT, "there is no search"),
    _refused("reasoning_effort", CHAT, "the models served have no such setting", "none"),
    _refused("verbosity", CHAT, "the models served have no such setting", "medium"),
    _refused("service_tier", TALKS, "there is one; use priority", "auto", "default"),
    _refused("store", TALKS, "nothing is stored", False),
    _refused("previous_response_id", RESPONSES, "nothing is stored; send all items as input"),
    _refused("conversation", RESPONSES, "nothing is stored; send all items as input"),
    _refused("background", RESPONSES, "nothing is stored", False),
    _refused("background_options", RESPONSES, "nothing is stored"),
    _refused("prompt", RESPONSES, "no templates are stored; send input"),
    _refused("truncation", RESPONSES, "nothing is left out of a conversation", "disabled"),
    _refused("context_management", RESPONSES, "nothing is left out of a conversation", []),
    _refused("reasoning", RESPONSES, "the models served have no such setting", {}, *_NO_EFFORT),
    _refused("image", RESPONSES, "text alone"),
    _refused("access_programs", RESPONSES, "there are none"),
)


def fields_of(endpoint: Endpoint) -> Mapping[str, Field]:
    return {field.name: field for field in FIELDS if endpoint in field.endpoints}


_BY_ENDPOINT: Final = {endpoint: fields_of(endpoint) for endpoint in ALL}


def served(endpoint: Endpoint, body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are served and set. Errors: HttpError for others that ask for something."""
    known = _BY_ENDPOINT[endpoint]
    found = {}
    for name, value in body.items():
        field = known.get(name)
        if field is None:
            raise HttpError(400, f"Unrecognized request argument supplied: {_shown([name])}")
        if value is None or field.handling == "ignored":
            continue
        if field.handling == "served":
            found[name] = value
        elif not any(type(value) is type(one) and value == one for one in field.neutral):
            raise HttpError(
                400, f"{name}: not supported: {field.note}", param=name,
                code="unsupported_parameter",
            )  # fmt: skip
    return found


def _shown(names: Iterable[str]) -> str:
    """Names that may be anything."""
    return ", ".join(name[:100].encode(errors="replace").decode() for name in names)
