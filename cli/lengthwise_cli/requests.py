"""Commands that ask a router once: generate, tokenize, model(s); and what `chat` shares."""

import dataclasses
import json
import sys
from collections.abc import Iterable, Mapping
from typing import Annotated, cast

from typer import Argument

from lengthwise._grpc.channel import DEFAULT_ENDPOINT
from lengthwise._session import join
from lengthwise.types import Chunk, Completion, Options
from lengthwise_cli import options as option
from lengthwise_cli.terminal import harmless, knows_unicode, say


def generate(
    prompt: Annotated[str, Argument(help='The text to continue; "-" reads standard input.')],
    endpoint: option.Endpoints = [DEFAULT_ENDPOINT],  # noqa: B006  (typer copies it)
    model: option.ModelName = None,
    max_tokens: option.MaxTokens = None,
    min_tokens: option.MinTokens = None,
    temperature: option.Temperature = None,
    top_k: option.TopK = None,
    top_p: option.TopP = None,
    seed: option.Seed = None,
    stop: option.Stop = None,
    json_schema: option.JsonSchema = None,
    regex: option.Regex = None,
    choice: option.Choice = None,
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
    options = as_options(locals())
    with option.open_client(endpoint, tls_authority, tls_certificate, tls_private_key) as client:
        completion = show(client.stream(read_text(prompt), **options), echo=not as_json)
    if as_json:
        fields = dataclasses.asdict(completion)
        del fields["parsed"]  # of Python's classes alone
        print(as_json_text(fields))
    if stats:
        say(statistics(completion))


def tokenize(
    prompt: Annotated[str, Argument(help='A text; "-" reads standard input.')],
    endpoint: option.Endpoints = [DEFAULT_ENDPOINT],  # noqa: B006  (typer copies it)
    model: option.ModelName = None,
    as_json: option.AsJson = False,
    tls_authority: option.Authority = None,
    tls_certificate: option.Certificate = None,
    tls_private_key: option.PrivateKey = None,
) -> None:
    """Print the token ids of a text."""
    with option.open_client(
        endpoint, tls_authority, tls_certificate, tls_private_key, model
    ) as client:
        ids = client.tokenize(read_text(prompt))
    print(json.dumps(ids) if as_json else " ".join(map(str, ids)))


def model(
    endpoint: option.Endpoints = [DEFAULT_ENDPOINT],  # noqa: B006  (typer copies it)
    name: option.ModelName = None,
    as_json: option.AsJson = False,
    tls_authority: option.Authority = None,
    tls_certificate: option.Certificate = None,
    tls_private_key: option.PrivateKey = None,
) -> None:
    """Say what is served: one model in full."""
    with option.open_client(endpoint, tls_authority, tls_certificate, tls_private_key) as client:
        values = dataclasses.asdict(client.model(name))
    if as_json:
        print(as_json_text(values))
        return
    sampling = values.pop("default_sampling")
    for name, value in {**values, **{f"default {key}": sampling[key] for key in sampling}}.items():
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
        print(f"{name.replace('_', ' '):<28}{shown}")


def models(
    endpoint: option.Endpoints = [DEFAULT_ENDPOINT],  # noqa: B006  (typer copies it)
    as_json: option.AsJson = False,
    tls_authority: option.Authority = None,
    tls_certificate: option.Certificate = None,
    tls_private_key: option.PrivateKey = None,
) -> None:
    """List the names of all models that are served."""
    with option.open_client(endpoint, tls_authority, tls_certificate, tls_private_key) as client:
        found = client.models()
    if as_json:
        print(as_json_text([dataclasses.asdict(each) for each in found]))
        return
    for each in found:
        print(each.name)


def as_options(arguments: Mapping[str, object]) -> Options:
    """Those of a command's arguments that are options of a generation."""
    names = arguments.keys() & Options.__annotations__.keys()
    return cast(Options, {name: arguments[name] for name in names})


def as_json_text(value: object) -> str:
    """On one line; in ASCII where the output knows nothing else."""
    return json.dumps(value, ensure_ascii=not knows_unicode(sys.stdout))


def read_text(argument: str) -> str:
    return sys.stdin.read() if argument == "-" else argument


def show(stream: Iterable[Chunk], *, echo: bool, said: list[str] | None = None) -> Completion:
    """Prints the text as it comes, if `echo`; `said` gets it piece by piece.

    On a terminal control characters are shown as dots: models and users of other models must not
    command it.
    """
    chunks = []
    tame = harmless if sys.stdout.isatty() else str
    for chunk in stream:
        chunks.append(chunk)
        if said is not None:
            said.append(chunk.text)
        if echo:
            print(tame(chunk.text), end="", flush=True)
    completion = join(chunks)
    if echo and not completion.text.endswith("\n"):
        print(flush=True)
    return completion


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
