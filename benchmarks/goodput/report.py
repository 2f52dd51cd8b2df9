"""The rows of a run, and what is printed of it."""

import math
from collections.abc import Iterator, Mapping, Sequence

from scheduling.result import percentile

from goodput.arms import DEFAULT, FIXED, VLLM
from goodput.measure import OBJECTIVES, attainment, estimate_goodput, estimate_ratio, goodput
from goodput.plays import Play, Plays

PERCENTILES = (50, 90, 99)
Row = dict[str, object]


def play_row(play: Play, settings: Mapping[str, object]) -> Row:
    """One arm at one rate."""
    row: Row = {
        **settings,
        "shape": play.shape,
        "rate": play.rate,
        "arm": play.arm,
        "requests": len(play.outcomes),
        "failed": sum(bool(outcome.error) for outcome in play.outcomes),
    }
    for objective in OBJECTIVES:
        share = attainment(play.met(objective))
        name = objective.column
        row |= {
            name: round(share.value, 4),
            f"{name}_low": round(share.low, 4),
            f"{name}_high": round(share.high, 4),
        }
    ended = [outcome for outcome in play.outcomes if not outcome.error]
    for percent in PERCENTILES:
        row[f"ttft_p{percent}_ms"] = _ms([each.ttft_seconds for each in ended], percent)
    for percent in PERCENTILES:
        tpot = [each.tpot_seconds for each in ended if each.output_tokens > 1]
        row[f"tpot_p{percent}_ms"] = _ms(tpot, percent)
    return row | {
        "output_tokens_per_second": round(sum(e.output_tokens for e in ended) / play.seconds, 1),
        "client_cores": round(play.cpu.client, 3),
        "server_cores": round(play.cpu.cluster, 3),
        "foreign_cores": round(play.cpu.foreign, 3),
    }


def summary_rows(plays: Plays, shape: str, settings: Mapping[str, object]) -> Iterator[Row]:
    """Of each arm under each objective: its goodput, and its ratios."""
    arms = list(dict.fromkeys(play.arm for play in plays.of(shape)))
    for objective in OBJECTIVES:
        rungs = {arm: plays.rungs(shape, arm, objective) for arm in arms}
        common = set.intersection(*(set(each) for each in rungs.values()))
        rungs = {arm: {rate: each[rate] for rate in common} for arm, each in rungs.items()}
        if not common:
            continue
        fixed = [arm.name for arm in FIXED if arm.name in rungs]
        best = max(fixed, key=lambda arm: goodput(rungs[arm]), default=None)
        for arm in arms:
            found = estimate_goodput(rungs[arm])
            row: Row = {
                **settings,
                "shape": shape,
                "objective": objective.name,
                "arm": arm,
                "rungs": len(common),
                "goodput": round(found.value, 3),
                "goodput_low": round(found.low, 3),
                "goodput_high": round(found.high, 3),
            }
            bases = {"vllm": VLLM if VLLM in rungs else None, "best_fixed": best}
            for name, base in bases.items():
                wanted = base is not None and (name == "vllm" or arm == DEFAULT.name)
                ratio = estimate_ratio(rungs[arm], rungs[base]) if base and wanted else None
                for end in ("value", "low", "high"):
                    column = f"to_{name}" if end == "value" else f"to_{name}_{end}"
                    number = math.inf if ratio is None else getattr(ratio, end)
                    row[column] = round(number, 3) if math.isfinite(number) else ""
            yield row


def show(rows: Sequence[Row], columns: Sequence[str]) -> None:
    """A plain table."""
    table = [[*columns], *([str(row[column]) for column in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))


def _ms(seconds: Sequence[float], percent: int) -> float | str:
    finite = [each for each in seconds if math.isfinite(each)]
    return round(percentile(finite, percent) * 1e3, 1) if finite else ""
