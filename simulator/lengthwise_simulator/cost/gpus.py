"""GPUs, as their makers' data sheets describe them; memory as CUDA reports it, for gigabytes of the
sheets are GiB for some GPUs: an H100 of 80 GB has 85e9 bytes, an H200 of 141 GB 150e9."""

from dataclasses import dataclass
from typing import Final

from lengthwise_simulator.errors import SimulationError


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuModel:
    """Of one device. FLOP/s are of dense bfloat16 matrices."""

    memory_bytes: float
    memory_bytes_per_second: float
    flops: float
    peer_bytes_per_second: float  # one way, to GPUs of the same machine
    network_bytes_per_second: float  # one way, its share of the machine's network


GPUS: Final = {
    "B200": GpuModel(
        memory_bytes=180e9,
        memory_bytes_per_second=8.0e12,
        flops=2250e12,
        peer_bytes_per_second=900e9,
        network_bytes_per_second=50e9,
    ),
    "H200": GpuModel(
        memory_bytes=150e9,
        memory_bytes_per_second=4.8e12,
        flops=989e12,
        peer_bytes_per_second=450e9,
        network_bytes_per_second=50e9,
    ),
    "H100": GpuModel(
        memory_bytes=85e9,
        memory_bytes_per_second=3.35e12,
        flops=989e12,
        peer_bytes_per_second=450e9,
        network_bytes_per_second=50e9,
    ),
    "A100": GpuModel(
        memory_bytes=85e9,
        memory_bytes_per_second=2.039e12,
        flops=312e12,
        peer_bytes_per_second=300e9,
        network_bytes_per_second=25e9,
    ),
    "A100-40GB": GpuModel(
        memory_bytes=40e9,
        memory_bytes_per_second=1.555e12,
        flops=312e12,
        peer_bytes_per_second=300e9,
        network_bytes_per_second=25e9,
    ),
    "L40S": GpuModel(
        memory_bytes=48e9,
        memory_bytes_per_second=0.864e12,
        flops=362e12,
        peer_bytes_per_second=32e9,
        network_bytes_per_second=12.5e9,
    ),
    "L4": GpuModel(
        memory_bytes=24e9,
        memory_bytes_per_second=0.3e12,
        flops=121e12,
        peer_bytes_per_second=32e9,
        network_bytes_per_second=12.5e9,
    ),
}


def find_gpu(name: str) -> GpuModel:
    """Errors: SimulationError."""
    found = GPUS.get(name.upper())
    if found is None:
        raise SimulationError(f"gpu: got {name!r}, expected one of {', '.join(GPUS)}")
    return found
