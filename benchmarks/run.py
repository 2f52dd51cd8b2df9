"""All benchmarks that need no GPU, one after the other, each in a process of its own."""

import subprocess
import sys

NAMES = (
    "structure",
    "micro.policy",
    "micro.placement",
    "fleet.statuses",
    "fleet.herding",
    "scheduling.prefill_disciplines",
    "goodput.simulation",
    "micro.prefix",
    "micro.kv_transfer",
    "micro.prefill_push",
    "micro.tensor_parallel",
    "micro.numerics",
    "micro.stepping",
    "micro.step_jitter",
    "micro.launches",
    "micro.router_cpu",
    "front_door.cost",
    "front_door.streams",
    "front_door.load_tools",
    "micro.startup",
    "micro.hostile_callers",
    "micro.fingerprint",
    "micro.loading",
    "micro.structured_output",
    "micro.grammar_tpot",
    "micro.choices",
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
