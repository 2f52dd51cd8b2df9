"""What clients take and return: frozen values without a trace of the wire."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from lengthwise.conversation import Conversation as Conversation
from lengthwise.conversation import Message as Message
from lengthwise.conversation import Prompt as Prompt
from lengthwise.conversation import ToolCall, ToolCallDelta
from lengthwise.settings import Timeout

FinishReason = Literal["stop", "length"]
"""stop: an end-of-sequence token, a stop token or a stop string; length: max_tokens or the
context."""


class Options(TypedDict, total=False):
    """The options of a generation. One that is absent or None is the model's default."""

    temperature: float | None
    """0 to 100; 0 is greedy."""
    top_k: int | None
    """Keep the k most likely tokens; 0 keeps all."""
    top_p: float | None
    """Keep the smallest set of tokens whose probability reaches top_p; above 0, up to 1."""
    min_p: float | None
    """Keep tokens at least min_p times as likely as the likeliest; 0 to 1."""
    repetition_penalty: float | None
    """Divides the logits of tokens seen in prompt or output; 0.001 to 1000."""
    presence_penalty: float | None
    """Subtracted from the logits of tokens seen in the output; -2 to 2."""
    frequency_penalty: float | None
    """Subtracted once per occurrence in the output; -2 to 2."""
    seed: int | None
    """Equal seeds give equal tokens on any worker; 0 to 2**64 - 1. Absent: the router draws one."""
    min_tokens: int | None
    """Before so many tokens were generated, no end-of-sequence or stop token is sampled, and text
    up to the last of them ends at no stop string; at most max_tokens. Absent: 0."""
    logit_bias: Mapping[int, float] | None
    """Added to the logits of these token ids, before penalties and temperature; -100 to 100, at
    most 300 of them."""
    n: int | None
    """So many completions of the prompt, which is computed once: `Completion.choices`, and in a
    stream `Chunk.choice`. Choice i has the tokens of a request with `seed` + i. 1 to 128."""
    max_tokens: int | None
    """At least 1. Absent: as many as the context and the largest decode worker hold."""
    response_format: type[Any] | None
    """A pydantic model, `parsed` its instance. One of these five; no min_tokens, no ignore_eos."""
    json_schema: str | Mapping[str, Any] | None
    """The text is a JSON value that this schema accepts."""
    regex: str | None
    """The whole text matches this expression of the Rust kind: no look-around."""
    lark: str | None
    """The text is of this context-free grammar, in llguidance's dialect of Lark."""
    choice: Sequence[str] | None
    """The text is one of these; at most 1,024."""
    tools: Sequence[Mapping[str, Any]] | None
    """Functions that the model may call in a conversation, as in OpenAI's API; at most 128."""
    tool_choice: str | None
    """"auto", which is the default, "none", "required", or the name of the function to call."""
    parallel_tool_calls: bool | None
    """False: one call at most."""
    stop: str | Sequence[str] | None
    """The text ends before the first of these: at most 16, each of 1 to 256 characters."""
    stop_token_ids: Sequence[int] | None
    """Token ids that end the request, beside the model's own end-of-sequence tokens."""
    ignore_eos: bool | None
    """Go on past end-of-sequence tokens."""
    top_logprobs: int | None
    """Return log probabilities, and those of this many alternatives; 0 to 20."""
    priority: int | None
    """Requests of higher priority are served first; -100 to 100, 0 where absent."""
    tenant: str | None
    """The tenant that the request counts for where tenants share fairly; at most 128 printable
    characters. Absent: the tenant without a name. Certificates, where clients show them, name it
    instead."""
    cache_salt: str | None
    """What is cached of this prompt is used for requests with the same salt alone, so that callers
    who do not know it cannot find out what was sent. A secret of 1 to 256 characters, for example
    `secrets.token_urlsafe(32)`. Absent: shared with all requests that have none."""
    conversation_returns: bool | None
    """Whether the conversation will go on, so that its state is worth keeping. Absent: the router
    expects it of conversations that have come back before."""
    model: str | None
    """The name of a served model, exactly. Absent: the client's, or the only one that is served."""
    request_id: str | None
    """Names the request in the server's logs; at most 128 printable characters. Absent:
    a random one."""
    timeout: Timeout | float | None
    """Replaces the client's; a number is `Timeout(total=number)`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Logprob:
    """A token and the natural logarithm of its probability."""

    token_id: int
    logprob: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprobs:
    """Log probabilities at one position, of the model's raw distribution (before penalties and
    temperature)."""

    logprob: float
    """Of the token that was chosen."""
    top: tuple[Logprob, ...]
    """The likeliest tokens, best first; as many as were asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A generated token. The first of a request has index 0."""

    index: int
    id: int
    logprobs: TokenLogprobs | None = None
    """Where asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    prompt_tokens: int
    """0 of every choice but the first, which have the same prompt."""
    output_tokens: int
    cached_prompt_tokens: int = 0
    """Prompt tokens whose KV was reused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Where the time of a request went, as its router saw it."""

    queue_seconds: float
    """Waiting at the prefill worker before the first chunk was computed."""
    prefill_seconds: float
    """From the first chunk's start to the first token."""
    reserve_seconds: float
    """Waiting for the decode worker's blocks."""
    time_to_first_token_seconds: float
    """From the request's arrival to the first token."""
    time_per_output_token_seconds: float
    """(last token - first token) / (output tokens - 1); 0 for a single token."""
    total_seconds: float
    """From arrival to the last token."""
    retries: int
    """How often a phase had to be done again on another worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A piece of a completion, as it comes.

    text: what has become certain. It never splits a character, and may lag behind the tokens while
        a stop string or a character is incomplete.
    content, reasoning: of a request with tools, what of it is said, and what was thought before.
    tool_call_deltas: calls as they are written; tool_calls: those that have become whole.
    finish_reason, usage, timings: in the last chunk alone, of each choice.
    choice: which of the completions that were asked for.
    """

    text: str
    tokens: tuple[Token, ...]
    request_id: str
    seed: int | None
    choice: int = 0
    content: str = ""
    reasoning: str = ""
    tool_call_deltas: tuple[ToolCallDelta, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    timings: Timings | None = None

    @property
    def token_ids(self) -> tuple[int, ...]:
        return tuple(token.id for token in self.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What a prompt was continued with."""

    text: str
    """As the model wrote it: of a request with tools, calls and reasoning included."""
    tokens: tuple[Token, ...]
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    request_id: str
    seed: int | None
    """The same prompt and options with this seed give the same tokens again."""
    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    """Of a request with tools: what it said, thought before, and called."""
    parsed: Any = None
    """Of a request with `response_format`; None where `finish_reason` is not "stop"."""
    others: tuple["Completion", ...] = ()
    """Of a request with `n`: those after the first, which this is."""

    @property
    def choices(self) -> tuple["Completion", ...]:
        """All that were asked for, this one first."""
        return self, *self.others

    @property
    def message(self) -> Message:
        """The turn that a conversation with tools goes on from."""
        content = self.content or (None if self.tool_calls else "")
        return Message("assistant", content, self.tool_calls, None, self.reasoning or None)

    @property
    def token_ids(self) -> tuple[int, ...]:
        return tuple(token.id for token in self.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are chosen where a request sets nothing; the fields are those of `Options`."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What is served."""

    name: str
    context_length: int
    """Prompt and output together, in tokens."""
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    has_chat_template: bool
    """Whether it takes conversations."""
    fingerprint: str
    """Equal on every worker that serves these very weights."""
    default_sampling: Sampling
    capacity_tokens: int = 0
    """The most tokens, prompt and output together, that a decode worker holds; 0: none is there."""
