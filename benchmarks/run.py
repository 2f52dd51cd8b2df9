"""All benchmarks that need no GPU, one after the other, each in a process of its own."""

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
NAMES = (
    *(
        "policy",
        "placement",
        "prefill_disciplines",
        "prefix",
        "exactness",
        "kv_transfer",
        "prefill_push",
        "tensor_parallel",
        "stepping",
        "router_cpu",
    ),
    "startup",
)


def main() -> None:
    failed = []
    for name in NAMES:
        print(f"== {name}", flush=True)
        result = subprocess.run([sys.executable, str(FOLDER / f"{name}.py")], check=False)
        if result.returncode:
            failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
