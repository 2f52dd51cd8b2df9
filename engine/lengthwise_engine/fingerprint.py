"""One number for «the same model», compared before two workers exchange KV.

It reads little (a gigabyte checkpoint costs milliseconds) and nothing that differs
between two copies of the same files, such as names of folders or times.
"""

import hashlib
from pathlib import Path

_SAMPLE_BYTES = 65536
_SAMPLES_PER_FILE = 8


def model_fingerprint(checkpoint: Path, *, rounded_to_fp8: bool = False) -> str:
    """16 hex digits of config.json and, per safetensors file, its size and samples of its bytes.

    The first sample holds the header with every tensor's name, type, shape and offset; the others
    are spread evenly over the weights. `rounded_to_fp8` says that the worker rounds projections
    when it loads them: then its KV is another than that of a worker that does not, and neither may
    use the other's.
    """
    digest = hashlib.sha256(b"fp8:" if rounded_to_fp8 else b"")
    digest.update((checkpoint / "config.json").read_bytes())
    for path in sorted(checkpoint.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with path.open("rb") as file:
            for index in range(_SAMPLES_PER_FILE):
                file.seek((size - min(size, _SAMPLE_BYTES)) * index // (_SAMPLES_PER_FILE - 1))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]
