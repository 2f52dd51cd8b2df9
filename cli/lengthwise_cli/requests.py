"""Commands that talk to a router: generate, chat, tokenize, model."""

import dataclasses
import json
import sys
from collections.abc import Iterable
from typing import Annotated

from typer import Argument, Option

from lengthwise._grpc.channel import DEFAULT_ENDPOINT
from lengthwise._session import join
from lengthwise.types import Chunk, Completion, Message, Options
from lengthwise_cli import options as option


def generate(
    prompt: Annotated[str, Argument(help='The text to continue; "-" reads standard input.')],
    endpoint: option.Endpoints = [DEFAULT_ENDPOINT],  # noqa: B006  (typer copies it)
    max_tokens: option.MaxTokens = None,
    min_tokens: option.MinTokens = None,
    temperature: option.Temperature = None,
    top_k: option.TopK = None,
    top_p: option.TopP = None,
    seed: option.Seed = None,
    stop: option.Stop = None,
    priority: option.Priority = None,
    tenant: option.Tenant = None,
    cache_salt: option.CacheSalt = None,
    request_id: option.RequestId = None,
    timeout: option.Seconds = None,
    as_json: option.AsJson = False,
    stats: option.Stats = False,
    tls_authority: option.Authority = None,
    tls_certificate: option.Certificate = None,
    tls_private_key: option.PrivateKey = None,
) -> None:
    """Continue a text, and print it as it comes."""
    options: Options = {
        "max_tokens": max_tokens,
        "min_tokens": min_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "seed": seed,
        "stop": stop,
        "priority": priority,
        "tenant": tenant,
        "cache_salt": cache_salt,
        "request_id": request_id,
        "timeout": timeout,
    }
    with option.open_client(endpoint, tls_authority, tls_certificate, tls_private_key) as client:
        completion = _show(client.stream(_text(prompt), **options), echo=not as_json)
    if as_json:
        print(json.dumps(dataclasses.asdict(completion), ensure_ascii=False))
    if stats:
        print(statistics(completion), file=sys.stderr)


def chat(
    message: Annotated[
        str | None, Argument(help='One message; "-" reads standard input; none: a conversation.')
    ] = None,
    system: Annotated[str | None, Option(help="The system message.")] = None,
    endpoint: option.Endpoints = [DEFAULT_ENDPOINT],  # noqa: B006  (typer copies it)
    max_tokens: option.MaxTokens = None,
    temperature: option.Temperature = None,
    seed: option.Seed = None,
    priority: option.Priority = None,
    tenant: option.Tenant = None,
    cache_salt: option.CacheSalt = None,
    stats: option.Stats = False,
    tls_authority: option.Authority = None,
    tls_certificate: option.Certificate = None,
    tls_private_key: option.PrivateKey = None,
) -> None:
    """Talk with the model, if it has a chat template. Ctrl-D ends the conversation."""
    options: Options = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "seed": seed,
        "priority": priority,
        "tenant": tenant,
        "cache_salt": cache_salt,
        "conversation_returns": message is None,
    }
    messages = [Message("system", system)] if system else []
    with option.open_client(endpoint, tls_authority, tls_certificate, tls_private_key) as client:
        for text in _turns() if message is None else [_text(message)]:
            messages.append(Message("user", text))
            completion = _show(client.stream(messages, **options), echo=True)
            messages.append(Message("assistant", completion.text))
            if stats:
                print(statistics(completion), file=sys.stderr)


def tokenize(
    prompt: Annotated[str, Argument(help='A text; "-" reads standard input.')],
    endpoint: option.Endpoints = [DEFAULT_ENDPOINT],  # noqa: B006  (typer copies it)
    as_json: option.AsJson = False,
    tls_authority: option.Authority = None,
    tls_certificate: option.Certificate = None,
    tls_private_key: option.PrivateKey = None,
) -> None:
    """Print the token ids of a text."""
    with option.open_client(endpoint, tls_authority, tls_certificate, tls_private_key) as client:
        ids = client.tokenize(_text(prompt))
    print(json.dumps(ids) if as_json else " ".join(map(str, ids)))


def model(
    endpoint: option.Endpoints = [DEFAULT_ENDPOINT],  # noqa: B006  (typer copies it)
    as_json: option.AsJson = False,
    tls_authority: option.Authority = None,
    tls_certificate: option.Certificate = None,
    tls_private_key: option.PrivateKey = None,
) -> None:
    """Say what is served."""
    with option.open_client(endpoint, tls_authority, tls_certificate, tls_private_key) as client:
        values = dataclasses.asdict(client.model())
    if as_json:
        print(json.dumps(values))
        return
    sampling = values.pop("default_sampling")
    for name, value in {**values, **{f"default {key}": sampling[key] for key in sampling}}.items():
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
        print(f"{name.replace('_', ' '):<28}{shown}")


def statistics(completion: Completion) -> str:
    """Where the time of a completion went, in one line."""
    usage, timings = completion.usage, completion.timings
    per_token = timings.time_per_output_token_seconds
    rate = f" ({1 / per_token:.0f} tokens/s)" if per_token > 0 else ""
    return (
        f"{usage.prompt_tokens} prompt tokens ({usage.cached_prompt_tokens} cached),"
        f" {usage.output_tokens} output tokens ·"
        f" first token after {timings.time_to_first_token_seconds * 1000:.0f} ms"
        f" (queue {timings.queue_seconds * 1000:.0f},"
        f" prefill {timings.prefill_seconds * 1000:.0f},"
        f" reserve {timings.reserve_seconds * 1000:.0f})"
        f" · then {per_token * 1000:.1f} ms per token{rate}"
        f" · {timings.total_seconds:.2f} s in all · {timings.retries} retries"
        f" · seed {completion.seed} · {completion.finish_reason} · request {completion.request_id}"
    )


def _show(stream: Iterable[Chunk], *, echo: bool) -> Completion:
    chunks = []
    for chunk in stream:
        chunks.append(chunk)
        if echo:
            print(chunk.text, end="", flush=True)
    completion = join(chunks)
    if echo and not completion.text.endswith("\n"):
        print(flush=True)
    return completion


def _turns() -> Iterable[str]:
    """What a person types, line by line, until the end of input."""
    prompt = "> " if sys.stdin.isatty() else ""
    if prompt:
        import readline  # noqa: F401  (its import gives `input` line editing)
    while True:
        try:
            text = input(prompt)
        except EOFError:
            return
        if text.strip():
            yield text


def _text(argument: str) -> str:
    return sys.stdin.read() if argument == "-" else argument
