"""The command that talks with a model. On a terminal Ctrl-C ends an answer and nothing else."""

import dataclasses
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Annotated

from typer import Argument, Option

from lengthwise._grpc.channel import DEFAULT_ENDPOINT
from lengthwise.client import Client
from lengthwise.types import Message, Options
from lengthwise_cli import options as option
from lengthwise_cli.diagnosis import in_words
from lengthwise_cli.requests import as_json_text, as_options, read_text, show, statistics
from lengthwise_cli.terminal import say
from lengthwise_wire.errors import Cancelled, LengthwiseError, PromptTooLong

DEFAULT_MAX_TOKENS = 512


def chat(
    message: Annotated[
        str | None, Argument(help='One message; "-" reads standard input; none: a conversation.')
    ] = None,
    system: Annotated[str | None, Option(help="The system message.")] = None,
    endpoint: option.Endpoints = [DEFAULT_ENDPOINT],  # noqa: B006  (typer copies it)
    model: option.ModelName = None,
    max_tokens: Annotated[
        int | None,
        Option(help=f"Of each answer, at most; not given: {DEFAULT_MAX_TOKENS}, or what fits."),
    ] = None,
    min_tokens: option.MinTokens = None,
    temperature: option.Temperature = None,
    top_k: option.TopK = None,
    top_p: option.TopP = None,
    seed: option.Seed = None,
    stop: option.Stop = None,
    priority: option.Priority = None,
    tenant: option.Tenant = None,
    cache_salt: option.CacheSalt = None,
    timeout: option.Seconds = None,
    as_json: option.AsJson = False,
    stats: option.Stats = False,
    tls_authority: option.Authority = None,
    tls_certificate: option.Certificate = None,
    tls_private_key: option.PrivateKey = None,
) -> None:
    """Talk with the model, if it has a chat template.

    Ctrl-C ends an answer, Ctrl-D the conversation. With --json every answer is one line.
    """
    options = as_options(locals())
    options["conversation_returns"] = message is None

    def connect() -> Client:
        return option.make_client(endpoint, tls_authority, tls_certificate, tls_private_key, model)

    with option.named(endpoint):
        conversation = _Conversation(connect, options, system, as_json=as_json, stats=stats)
        if message is not None:
            conversation.answer(read_text(message))
        elif sys.stdin.isatty():
            _talk(conversation, endpoint)
        else:
            for line in sys.stdin:
                if line.strip():
                    conversation.answer(line.removesuffix("\n"))


class _Conversation:
    """What was said, and the connection that says it."""

    def __init__(
        self,
        connect: Callable[[], Client],
        options: Options,
        system: str | None,
        *,
        as_json: bool,
        stats: bool,
    ) -> None:
        self._connect = connect
        self._client = connect()
        self._options = options
        self._as_json = as_json
        self._stats = stats
        self._messages = [Message("system", system)] if system else []
        self._num_system = len(self._messages)

    def model_name(self) -> str:
        """Errors: LengthwiseError."""
        return self._client.model().name

    def answer(self, text: str) -> None:
        """Prints the answer and remembers both. Of an answer that fails nothing is remembered.

        Errors: LengthwiseError.
        """
        self._messages.append(Message("user", text))
        try:
            self._answer_within_context()
        except BaseException:
            if self._messages[-1].role == "user":
                self._messages.pop()
            raise

    def _answer_within_context(self) -> None:
        """Where prompt and answer are too long, first without the default limit of the answer, then
        without the oldest turns."""
        options: Options = {**self._options}
        if options["max_tokens"] is None:
            options["max_tokens"] = DEFAULT_MAX_TOKENS
        while True:
            try:
                return self._stream(options)
            except PromptTooLong:
                first = self._num_system
                if options["max_tokens"] is not self._options["max_tokens"]:
                    options["max_tokens"] = None
                elif len(self._messages) > first + 1:
                    del self._messages[first : first + 2]
                    say("(the oldest turn no longer fits the context: it is left out)")
                else:
                    raise

    def _stream(self, options: Options) -> None:
        said: list[str] = []
        try:
            completion = show(
                self._client.stream(self._messages, **options), echo=not self._as_json, said=said
            )
        except BaseException:
            if said:
                self._messages.append(Message("assistant", "".join(said)))
            raise
        self._messages.append(Message("assistant", completion.text))
        if self._as_json:
            print(as_json_text(dataclasses.asdict(completion)), flush=True)
        elif completion.finish_reason == "length" and options["max_tokens"]:
            say(
                f"(the answer ended at {options['max_tokens']} tokens; --max-tokens sets the limit)"
            )
        if self._stats:
            say(statistics(completion))

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Within, Ctrl-C ends the answer that comes: Cancelled is raised.

        Not a KeyboardInterrupt: raised while gRPC runs a callback, it is lost.
        """
        # A signal handler must not take a lock: it may run within itself. This queue's `put` may.
        interrupts: SimpleQueue[bool] = SimpleQueue()
        interrupted = False

        def close_if_interrupted() -> None:
            nonlocal interrupted
            interrupted = interrupts.get()
            if interrupted:
                self._client.close()

        closing = threading.Thread(target=close_if_interrupted)
        closing.start()
        before = signal.signal(signal.SIGINT, lambda *_: interrupts.put(True))
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
            interrupts.put(False)
            closing.join()
            if interrupted:
                self._client = self._connect()


def _talk(conversation: _Conversation, endpoints: list[str]) -> None:
    """With a person at a terminal, until the end of input. Once it has begun, no error ends it."""
    import readline  # noqa: F401  (its import gives `input` line editing)

    say(f"{conversation.model_name()}: Ctrl-C ends an answer, Ctrl-D the conversation.")
    # Between an answer and the next line there is nothing to end: a second Ctrl-C changes nothing.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        while (text := _read_turn()) is not None:
            try:
                with conversation.interruptible():
                    conversation.answer(text)
            except Cancelled:
                print()
            except LengthwiseError as error:
                say(f"lengthwise: {in_words(error, endpoints)}")
        print()
    finally:
        signal.signal(signal.SIGINT, before)


def _read_turn() -> str | None:
    """What a person types next; None at the end of input. Ctrl-C begins the line anew."""
    reading = False

    def interrupt(*_: object) -> None:
        nonlocal reading
        if reading:  # once a line: it is raised where it is caught
            reading = False
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        while True:
            try:
                reading = True
                text = input("> ")
                reading = False
            except KeyboardInterrupt:
                print()
                continue
            if text.strip():
                return text
    except EOFError:
        return None
    finally:
        signal.signal(signal.SIGINT, before)
