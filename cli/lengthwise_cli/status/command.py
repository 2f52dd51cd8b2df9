"""The command that shows what a deployment does, as its routers tell."""

import dataclasses
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import Annotated

from rich.live import Live
from typer import Argument, Option

from lengthwise._grpc.channel import DEFAULT_ENDPOINT
from lengthwise.client import Client
from lengthwise.settings import Retry, Timeout
from lengthwise.status import RouterStatus
from lengthwise_cli import options as option
from lengthwise_cli.diagnosis import in_words
from lengthwise_cli.errors import CommandError
from lengthwise_cli.requests import as_json_text
from lengthwise_cli.status.view import Statuses, StatusView
from lengthwise_cli.terminal import make_console
from lengthwise_wire.errors import LengthwiseError

ANSWER_SECONDS = 5.0
LOOK_SECONDS = 1.0


def status(
    router: Annotated[
        list[str] | None, Argument(help="Routers, host:port; not given: --endpoint.")
    ] = None,
    endpoint: option.Endpoints = [DEFAULT_ENDPOINT],  # noqa: B006  (typer copies it)
    once: Annotated[bool, Option("--once", help="Print it once, and end.")] = False,
    as_json: option.AsJson = False,
    tls_authority: option.Authority = None,
    tls_certificate: option.Certificate = None,
    tls_private_key: option.PrivateKey = None,
) -> None:
    """Show workers, queues, memory and latencies: live on a terminal."""
    endpoints = list(dict.fromkeys(router or endpoint))
    tls = option.make_tls(tls_authority, tls_certificate, tls_private_key)
    timeout = Timeout(total=ANSWER_SECONDS, connect=option.CONNECT_SECONDS)
    clients = {
        name: Client(name, tls=tls, timeout=timeout, retry=Retry(attempts=1)) for name in endpoints
    }
    with ThreadPoolExecutor(max_workers=len(clients)) as pool:
        _run(partial(_ask, clients, pool), once=once, as_json=as_json)


def _run(ask: Callable[[], Statuses], *, once: bool, as_json: bool) -> None:
    statuses = ask()
    if not any(isinstance(each, RouterStatus) for each in statuses.values()):
        raise CommandError("; ".join(str(each) for each in statuses.values()))
    if as_json:
        print(as_json_text({name: _plain(each) for name, each in statuses.items()}))
        return
    console = make_console()
    view = StatusView(console)
    view.take(statuses)
    if once or not console.is_terminal:
        time.sleep(LOOK_SECONDS)  # rates are of two looks
        view.take(ask())
        console.print(view.draw(since_start=True))
        return
    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(view.draw(), refresh=True)
            time.sleep(LOOK_SECONDS)
            view.take(ask())


def _ask(clients: dict[str, Client], pool: Executor) -> Statuses:
    def answer(endpoint: str) -> RouterStatus | str:
        try:
            return clients[endpoint].status()
        except LengthwiseError as error:
            return in_words(error, [endpoint])

    return dict(zip(clients, pool.map(answer, clients), strict=True))


def _plain(answer: RouterStatus | str) -> object:
    return {"error": answer} if isinstance(answer, str) else dataclasses.asdict(answer)
