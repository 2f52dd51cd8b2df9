"""All benchmarks that need no GPU, one after the other, each in a process of its own."""

import subprocess
import sys

NAMES = (
    "structure",
    "decisions.policy",
    "decisions.placement",
    "fleet.statuses",
    "fleet.herding",
    "scheduling.prefill_disciplines",
    "goodput.simulation",
    "decisions.prefix",
    "transfers.kv_transfer",
    "transfers.prefill_push",
    "steps.tensor_parallel",
    "steps.numerics",
    "steps.adapters",
    "steps.stepping",
    "steps.step_jitter",
    "steps.launches",
    "steps.graph_trace",
    "steps.sampling_passes",
    "front_door.router_cpu",
    "front_door.cost",
    "front_door.streams",
    "front_door.load_tools",
    "starts.startup",
    "front_door.hostile_callers",
    "starts.fingerprint",
    "starts.loading",
    "front_door.structured_output",
    "steps.grammar_tpot",
    "steps.choices",
    "memory_plan",
)


def main() -> None:
    failed = []
    for name in NAMES:
        print(f"== {name}", flush=True)
        result = subprocess.run([sys.executable, "-m", name], check=False)
        if result.returncode:
            failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
