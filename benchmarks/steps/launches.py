"""What a launched step costs the host, and how much each layer launches, without a GPU.

Triton compiles for Hopper and its driver is a stand-in, so that everything up to the driver's call
is what a GPU's host does; what the driver takes for a launch comes on top. Tensors are torch's
"meta": its operations are counted, their time would be that of Python and is left out. Layers are
told from the rest by models of one and of three. Times are of the thread on a processor, so that
other work on the machine spoils them less.
"""

import time
from collections.abc import Iterator
from typing import Any, Final

import torch
import triton
from random_models.models import BLOCK, SHAPES, random_model
from rows import append_rows
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from lengthwise_engine.kv.cache import KVCache
from lengthwise_engine.kv.layout import KVLayout
from lengthwise_engine.runner import step_tensors
from lengthwise_engine.runner.base import SequenceChunk
from lengthwise_engine.runner.sampler import SamplingParameters, SamplingState
from lengthwise_engine.runner.torch_runner import TorchRunner
from lengthwise_kernels.gpu import launch
from lengthwise_kernels.gpu.attention import plan

META: Final = torch.device("meta")
MODEL: Final = "Qwen2.5-7B"
HISTORY: Final = 1000
REPEATS: Final = 20
SAMPLINGS: Final = {
    "greedy": SamplingParameters(temperature=0.0),
    "drawn": SamplingParameters(temperature=0.8, top_k=40, top_p=0.9, seed=1),
    "penalised": SamplingParameters(temperature=0.0, repetition_penalty=1.05),
}
STEPS: Final = {"1 row": [1], "128 rows": [1] * 128, "512 tokens": [512], "mixed": [1] * 32 + [256]}
NO_LAUNCHES: Final = (
    *("view", "alias", "slice", "select", "split", "transpose", "expand", "squeeze", "unsqueeze"),
    *(
        "empty",
        "as_strided",
        "detach",
        "permute",
        "aten::t",
        "reshape",
        "new_empty",
        "_unsafe_view",
    ),
)


class NoDriver:
    """A Hopper GPU's driver that counts launches and does nothing."""

    launches = 0
    seconds = 0.0

    class utils:
        """As Triton names it."""

        @staticmethod
        def get_device_properties(device: int) -> dict[str, int]:
            return {"max_shared_mem": 232_448, "multiprocessor_count": 132}

        @staticmethod
        def load_binary(*arguments: object) -> tuple[int, int, int, int, int]:
            return 1, 1, 0, 0, 1024

    def get_current_target(self) -> object:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def launcher_cls(self, source: object, metadata: object) -> Any:
        def run(*arguments: object) -> None:
            NoDriver.launches += 1

        return run


class CountOperations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Torch's operations that launch a kernel or a copy."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        on_device = isinstance(result, torch.Tensor) and result.device == META
        name = func.name().partition(".")[0]
        self.count += on_device and not any(
            word in name if ":" not in word else word == name for word in NO_LAUNCHES
        )
        return result


def pretend() -> None:
    """From here on tensors without memory are a GPU's."""
    driver.set_active(NoDriver())
    run = JITFunction.run

    def timed(self: Any, *arguments: Any, **options: Any) -> object:
        began_at = time.thread_time()
        kernel = run(self, *arguments, **options)
        NoDriver.seconds += time.thread_time() - began_at
        return kernel

    JITFunction.run = timed
    launch.DEVICE_TYPE = "meta"
    torch.Tensor.is_cuda = property(lambda self: self.device == META)  # type: ignore[assignment]
    step_tensors.lay_out_attention = plan.lay_out_attention  # type: ignore[attr-defined]


def make_runner(layers: int) -> TorchRunner:
    shape = {**SHAPES[MODEL], "num_hidden_layers": layers}
    model = random_model(shape, "meta", torch.bfloat16).decoder
    layout = KVLayout.of(model.spec, block_size=BLOCK, dtype="bfloat16")
    blocks = 128 * -(-(HISTORY + 1) // BLOCK)
    size = (layers, blocks, 2, BLOCK, model.spec.num_kv_heads, model.spec.head_dim)
    return TorchRunner(model, KVCache(layout, torch.empty(size, dtype=torch.bfloat16, device=META)))


def make_step(lengths: list[int], sampling: SamplingParameters) -> list[SequenceChunk]:
    each = -(-(HISTORY + 1) // BLOCK)
    chunks = []
    for number, length in enumerate(lengths):
        start = HISTORY if length == 1 else 0
        token_ids = [7] * (start + length)
        state = SamplingState(sampling=sampling, token_ids=token_ids, num_prompt_tokens=start)
        chunks.append(
            SequenceChunk(
                token_ids=token_ids[start:],
                start=start,
                block_ids=range(number % 128 * each, (number % 128 + 1) * each),
                sampling=state,
            )
        )
    return chunks


def measure(runner: TorchRunner, chunks: list[SequenceChunk]) -> tuple[float, int, int]:
    """Microseconds of the host for Triton's launches, these, and torch's."""
    runner.launch(chunks)  # compiles
    before = NoDriver.launches
    with CountOperations() as operations:
        runner.launch(chunks)
    launches = NoDriver.launches - before
    taken = []
    for _ in range(REPEATS):
        NoDriver.seconds = 0.0
        runner.launch(chunks)
        taken.append(NoDriver.seconds * 1e6)
    return min(taken), launches, operations.count


def rows() -> Iterator[dict[str, object]]:
    runners = {layers: make_runner(layers) for layers in (1, 3)}
    num_layers = int(SHAPES[MODEL]["num_hidden_layers"])
    for step, lengths in STEPS.items():
        for name, sampling in SAMPLINGS.items():
            chunks = make_step(lengths, sampling)
            few, many = (measure(runner, chunks) for runner in runners.values())
            layer = [(most - least) / 2 for least, most in zip(few, many, strict=True)]
            rest = [least - each for least, each in zip(few, layer, strict=True)]
            yield {
                "torch": torch.__version__,
                "triton": triton.__version__,
                "model": MODEL,
                "step": step,
                "tokens": name,
                "layer_triton_launches": layer[1],
                "layer_torch_launches": layer[2],
                "other_triton_launches": rest[1],
                "other_torch_launches": rest[2],
                "step_launches": round(num_layers * (layer[1] + layer[2]) + rest[1] + rest[2]),
                "layer_triton_microseconds": round(layer[0], 1),
                "step_triton_milliseconds": round((num_layers * layer[0] + rest[0]) / 1e3, 2),
            }


@torch.inference_mode()
def main() -> None:
    pretend()
    table = []
    for row in rows():
        print(*list(row.values())[3:], flush=True)
        table.append(row)
    append_rows("launches", table)


if __name__ == "__main__":
    main()
