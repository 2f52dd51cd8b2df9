"""One number for «the same model», compared before two workers exchange KV.

Nothing that differs between two copies of the same files is in it, such as names of folders or
times.
"""

import hashlib
from pathlib import Path

from lengthwise_checkpoint.families import config_bytes


def model_fingerprint(
    checkpoint: Path,
    weights_digest: str = "",
    *,
    rounded_to: str = "",
    is_foreign: bool = False,
    numerics: str = "",
) -> str:
    """16 hex digits of config.json (shapes, rope, quantisation) and of every byte of the weights.

    `weights_digest`: `WeightsDigest`'s; empty for a model without weights. `rounded_to`: what the
    worker rounds projections to when it loads them; empty: nothing. Its KV is another than that of
    a worker that rounds otherwise, and neither may use the other's. `is_foreign`: transformers'
    code computes it, and rounds otherwise than ours. So do invariant workers of different
    `numerics`, and those that are not (empty).
    """
    digest = hashlib.sha256(f"{rounded_to}:".encode() if rounded_to else b"")
    digest.update(b"transformers:" if is_foreign else b"")
    digest.update(config_bytes(checkpoint))
    digest.update(weights_digest.encode())
    digest.update(numerics.encode())
    return digest.hexdigest()[:16]
