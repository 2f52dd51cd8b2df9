"""What several test folders share: checkpoints, how many examples hypothesis tries, and where
kernels run.

A test names a variant and gets a folder; none builds configs or weights by hand. A test has
settings of its own only where one example is expensive.
"""

import gc
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from harness.checkpoints import CHECKPOINT_VARIANTS, write_checkpoint
from hypothesis import settings

from lengthwise_local.shared_imports import shared_imports

# Modules and items live to the end: not to look for garbage among them makes a collection of
# 13 core-seconds one of 8, in every process.
gc.disable()

if not torch.cuda.is_available():
    # Kernels run in Triton's interpreter. Before anything imports Triton: it looks at this when it
    # decorates a kernel, its own among them.
    os.environ["TRITON_INTERPRET"] = "1"

# No deadline: an example that takes long on a busy machine is no failure. `make test-quick` asks
# for the other profile with --hypothesis-profile.
settings.register_profile("thorough", deadline=None, max_examples=100, stateful_step_count=40)
settings.register_profile("quick", deadline=None, max_examples=10, stateful_step_count=30)
settings.load_profile("thorough")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: one that begins last would keep a process busy alone."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is kept of checkpoints lies beside them, not in the user's cache."""
    os.environ["LENGTHWISE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """For small models torch's threads cost more than they do, on a busy machine ten times so."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _shared_imports() -> Iterator[None]:
    """All clusters of a session are forks of one process."""
    shared_imports.acquire("tests")
    yield
    shared_imports.release("tests")


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`make_checkpoint(variant, **config)`: a folder with a small random model, made once.

    `variant` is a key of CHECKPOINT_VARIANTS and `config` overrides values of its config.json. The
    folder has the model in float32 and a tokenizer.json with one token per byte. The weights are
    large enough that greedy text does not get stuck on one token. Needs transformers; do not write
    into the folder, it is shared.
    """
    made: dict[str, Path] = {}

    def make(variant: str, **config: Any) -> Path:
        key = json.dumps([variant, config], sort_keys=True)
        if key not in made:
            folder = tmp_path_factory.mktemp(f"checkpoint-{variant}")
            made[key] = write_checkpoint(folder, variant, **config)
        return made[key]

    return make


@pytest.fixture(scope="session", params=CHECKPOINT_VARIANTS)
def any_checkpoint(request: pytest.FixtureRequest, make_checkpoint: Callable[..., Path]) -> Path:
    """Each variant in turn."""
    return make_checkpoint(request.param)
