"""An evaluation as a table."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from lengthwise_cli.terminal import Column, fit_encoding, fitted, harmless

COLUMNS = (
    Column("text", is_number=False),
    Column("tokens", rank=3),
    Column("perplexity"),
    Column("full", rank=1),
    Column("increase"),
    Column("agreement"),
    Column("KL mean"),
    Column("KL p99", rank=2),
)


def show(outcome: Mapping[str, Any], console: Console) -> None:
    record = outcome["record"]
    rows = [
        (
            each["text"],
            f"{each['tokens']:,}",
            f"{each['perplexity']:,.3f}",
            f"{each['full_perplexity']:,.3f}",
            f"{increase:+.2%}",
            f"{each['agreement']:.2%}",
            f"{each['kl_mean']:.5f}",
            f"{each['kl_p99']:.5f}",
        )
        for each, increase in zip(record["texts"], outcome["increases"], strict=True)
    ]
    bounds = record["bounds"]

    def line(text: str) -> None:
        console.print(Text(fit_encoding(harmless(text), console.file)))

    line(
        f"{record['model']} in {record['mode']} beside the full model in {record['full_dtype']},"
        f" pieces of {record['context']:,} tokens:"
    )
    console.print(fitted(COLUMNS, rows, console))
    verdict = "failed" if outcome["failures"] else "passed"
    line(
        f"{verdict}: KL at most {bounds['most_kl']:g} nats, perplexity at most"
        f" {bounds['most_perplexity_increase']:+.1%}; record: {outcome['path']}"
    )
