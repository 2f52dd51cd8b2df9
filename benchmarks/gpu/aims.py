"""What one H200 is asked for, what a run got, and the ceiling beside it.

An aim looks at rows and nothing else; where a run has no row for it, it is «not measured».
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from gpu import peer
from gpu.task import Row
from lengthwise_simulator.cost.aiconfigurator import is_installed

Rows = Sequence[Row]


@dataclass(frozen=True, slots=True, kw_only=True)
class Got:
    """One number: of a ceiling the share, of a rival the speedup."""

    shape: str
    value: float
    milliseconds: float
    beside: str  # the ceiling or the rival, with its time


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """At least `wanted` for every shape that `find` finds in a table."""

    what: str
    wanted: float
    table: str
    find: Callable[[Rows], Iterator[Got]]
    is_asked: Callable[[], bool] = lambda: True


def of_ceiling(
    op: str, *shapes: str, implementation: str = "lengthwise"
) -> Callable[..., Iterator[Got]]:
    """The share of the ceiling that was reached; of shapes that contain one of `shapes`, or all."""

    def find(rows: Rows) -> Iterator[Got]:
        for row in _of(rows, op, shapes):
            if row["implementation"] == implementation:
                yield Got(
                    shape=row["shape"],
                    value=row["share_of_ceiling"],
                    milliseconds=row["p50_ms"],
                    beside=f"ceiling {row['ceiling_ms']:.3f} ms",
                )

    return find


def over(
    op: str, rival: str, *shapes: str, implementation: str = "lengthwise"
) -> Callable[..., Iterator[Got]]:
    """How many times faster than the best implementation whose name begins with `rival`."""

    def find(rows: Rows) -> Iterator[Got]:
        by_shape: dict[str, list[Row]] = defaultdict(list)
        for row in _of(rows, op, shapes):
            by_shape[row["shape"]].append(row)
        for shape, group in by_shape.items():
            ours = [row for row in group if row["implementation"] == implementation]
            rivals = [row for row in group if row["implementation"].startswith(rival)]
            if ours and rivals:
                best = min(rivals, key=lambda row: float(row["p50_ms"]))
                yield Got(
                    shape=shape,
                    value=best["p50_ms"] / ours[0]["p50_ms"],
                    milliseconds=ours[0]["p50_ms"],
                    beside=f"{best['implementation']} {best['p50_ms']:.3f} ms",
                )

    return find


def _of(rows: Rows, op: str, shapes: Sequence[str]) -> Iterable[Row]:
    return [
        row
        for row in rows
        if row["op"] == op and (not shapes or any(shape in row["shape"] for shape in shapes))
    ]


def _laps(rows: Rows) -> Iterator[Got]:
    """Medians over repeats, of the share of the arithmetic limit."""
    for (concurrency, setting), runs in laps_medians(rows).items():
        yield Got(
            shape=f"{concurrency} clients, {setting}",
            value=runs["share_of_limit"],
            milliseconds=runs["ttft_p50_ms"],
            beside=(
                f"p99 {runs['ttft_p99_ms']:.0f} ms, {runs['tokens_per_second']:.0f} of"
                f" {runs['limit_tokens_per_second']:.0f} tokens/s"
            ),
        )


def laps_medians(rows: Rows) -> Mapping[tuple[int, str], dict[str, float]]:
    """By concurrency and setting, the median over repeats of each number."""
    groups: dict[tuple[int, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["concurrency"], row["setting"]].append(row)
    names = (
        "ttft_p50_ms",
        "ttft_p99_ms",
        "tokens_per_second",
        "limit_tokens_per_second",
        "share_of_limit",
    )
    return {
        key: {name: median(row[name] for row in group) for name in names}
        for key, group in sorted(groups.items())
    }


KERNELS: Final = "gpu_kernels"
ENGINE: Final = "gpu_engine"
AIMS: Final = (
    Aim(
        what="prompts' attention / torch's, on contiguous KV",
        wanted=1.0,
        table=KERNELS,
        find=over("prefill_attention", "sdpa"),
    ),
    Aim(
        what="prompts' attention, of peak",
        wanted=0.60,
        table=KERNELS,
        find=of_ceiling("prefill_attention", "32768 causal"),
    ),
    Aim(
        what="decode attention, of bandwidth",
        wanted=0.85,
        table=KERNELS,
        find=of_ceiling("decode_attention", "64 x 4096"),
    ),
    Aim(
        what="decode attention / fixed splits",
        wanted=2.0,
        table=KERNELS,
        find=over("decode_attention", "16 splits", "131072"),
    ),
    Aim(
        what="common prefix / decode attention",
        wanted=4.0,
        table=KERNELS,
        find=over("shared_prefix_attention", "decode_attention", "256 rows"),
    ),
    *(
        Aim(what=f"{op}, of bandwidth", wanted=0.85, table=KERNELS, find=of_ceiling(op))
        for op in ("rms_norm", "add_rms_norm", "silu_mul", "rotate_and_store", "pack_blocks")
    ),
    Aim(
        what="weights of 4 bits, one row / bfloat16",
        wanted=2.5,
        table=KERNELS,
        find=over("int4_linear", "torch", "1 x 5120 x 55296"),
    ),
    Aim(
        what="experts / torch's grouped products",
        wanted=1.0,
        table=KERNELS,
        find=over("experts", "grouped_mm"),
    ),
    Aim(what="prefill, of peak", wanted=0.0, table=ENGINE, find=of_ceiling("prefill")),
    *(
        Aim(
            what=f"{op} / vLLM's by operator tables",
            wanted=1.0,
            table=ENGINE,
            find=over(op, peer.NAME),
            is_asked=is_installed,
        )
        for op in ("prefill", "decode")
    ),
    Aim(
        what="decode step, of bandwidth (1 / 1.25)",
        wanted=0.80,
        table=ENGINE,
        find=of_ceiling("decode"),
    ),
    Aim(
        what="short prompts, graphs / eager",
        wanted=2.0,
        table=ENGINE,
        find=over("short prefill", "eager", implementation="graphs"),
    ),
    Aim(
        what="prompts / transformers",
        wanted=1.0,
        table=ENGINE,
        find=over("prompts", "transformers"),
    ),
    Aim(
        what="decoding / transformers",
        wanted=1.0,
        table=ENGINE,
        find=over("decoding", "transformers"),
    ),
    Aim(what="LAPS' sweep, of the arithmetic limit", wanted=0.0, table="gpu_laps", find=_laps),
)
"""`wanted` 0: a number is asked for, whatever it is."""


def summary(tables: Mapping[str, Rows]) -> list[str]:
    """Lines of aim, wanted, got and what stands beside it. `tables`: of the parts that ran, also
    those without rows."""
    lines = []
    for aim in AIMS:
        if aim.table not in tables or not aim.is_asked():
            continue
        found = list(aim.find(tables[aim.table]))
        wanted = f"{aim.wanted:.2f}" if aim.wanted else "-"
        if not found:
            lines.append(f"{aim.what:52} {'':36} {wanted:>7} {'-':>7} {'':>10}  not measured")
        for got in found:
            missed = "" if got.value >= aim.wanted else "  MISSED"
            lines.append(
                f"{aim.what:52} {got.shape:36} {wanted:>7} {got.value:7.2f}"
                f" {got.milliseconds:10.3f}  {got.beside}{missed}"
            )
    header = f"{'aim':52} {'shape':36} {'wanted':>7} {'got':>7} {'p50 ms':>10}  beside"
    return [header, *lines] if lines else []
