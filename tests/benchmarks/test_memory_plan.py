"""The table of what memory holds which model, held against published numbers of parameters."""

from pathlib import Path

import pytest
from memory_plan import DEVICES, plan_of, read_models, table

from lengthwise_engine.models.shard import ModelShard
from lengthwise_engine.runner.memory_plan import weight_bytes

BILLIONS = {
    "Qwen2.5-0.5B": 0.494,
    "Qwen2.5-1.5B": 1.544,
    "Qwen2.5-7B": 7.616,
    "Qwen2.5-32B": 32.76,
    "Llama-3.2-1B": 1.236,
    "Llama-3.2-3B": 3.213,
    "Llama-3.1-8B": 8.030,
    "Llama-3.1-70B": 70.55,
    "Mistral-7B-v0.3": 7.248,
    "Qwen3-0.6B": 0.596,
    "Qwen3-8B": 8.191,
    "Qwen3-32B": 32.76,
}


@pytest.mark.parametrize("name", BILLIONS)
def test_models_have_the_published_number_of_parameters(name: str) -> None:
    parameters = weight_bytes(ModelShard(whole=read_models()[name]), "cuda", "bfloat16") / 2
    assert parameters == pytest.approx(BILLIONS[name] * 1e9, rel=0.001)


def test_the_page_has_the_table_that_the_code_computes() -> None:
    page = (Path(__file__).parents[2] / "docs/kv-sizing.md").read_text()
    assert "\n".join(table()) in page


def test_what_starts_anywhere_stays_within_nine_tenths() -> None:
    for spec in read_models().values():
        for device in DEVICES:
            plan = plan_of(spec, device)
            assert plan is None or plan.total_bytes <= 0.9 * device.gibibytes * 2**30
