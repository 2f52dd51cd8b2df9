"""What steps take: published numbers are reproduced, calculated ones obey physics, measured ones
come back from the rows they were measured in."""

import csv
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from simulator.clusters import COST

from lengthwise_checkpoint.config_json import ConfigJson
from lengthwise_checkpoint.families import read_decoder_spec
from lengthwise_simulator.cost.calibrated import COLUMNS, calibrate
from lengthwise_simulator.cost.gpus import GPUS, find_gpu
from lengthwise_simulator.cost.profile import CostProfile, LinearCosts, measured_by_workers
from lengthwise_simulator.cost.published import OPT_13B_A100, SplitwiseCosts
from lengthwise_simulator.cost.roofline import RooflineCosts
from lengthwise_simulator.cost.step_tables import StepGrid, StepTables
from lengthwise_simulator.errors import SimulationError

LLAMA_70B = read_decoder_spec(
    ConfigJson(
        Path("config.json"),
        {
            "model_type": "llama",
            "hidden_size": 8192,
            "intermediate_size": 28672,
            "num_hidden_layers": 80,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
            "vocab_size": 128_256,
            "max_position_embeddings": 131_072,
            "torch_dtype": "bfloat16",
            "rms_norm_eps": 1e-5,
        },
    )
)
TABLES = StepTables(
    grid=StepGrid(tokens=(1, 1000), past=(0, 10_000), requests=(1, 64), context=(1, 10_000)),
    rest=(5.0, 50.0),
    prompts=((0.0, 0.1), (1.0, 10.0)),
    decodes=((0.1, 1.0), (0.2, 20.0)),
)
PROFILES: list[CostProfile] = [
    TABLES,
    LinearCosts(COST),
    OPT_13B_A100[2],
    RooflineCosts(LLAMA_70B, GPUS["H100"], 4),
]


@pytest.mark.parametrize("profile", PROFILES)
def test_more_work_never_takes_less(profile: CostProfile) -> None:
    seconds = profile.step_seconds
    assert 0 < seconds([(100, 0)], 0, 0) <= seconds([(200, 0)], 0, 0) < seconds([(4000, 0)], 0, 0)
    assert seconds([(100, 0)], 0, 0) <= seconds([(100, 5000)], 0, 0)
    assert 0 < seconds([], 1, 100) <= seconds([], 1, 10_000) <= seconds([], 64, 640_000)
    assert seconds([(512, 0)], 8, 8000) > max(seconds([(512, 0)], 0, 0), seconds([], 8, 8000))


def test_distserve_s_formula_in_its_milliseconds() -> None:
    costs = OPT_13B_A100[1]
    assert costs.step_seconds([(512, 0)], 0, 0) == pytest.approx(
        (18.10 + 0.1019 * 512 + 7.12e-6 * 512**2) / 1e3
    )
    assert costs.step_seconds([], 64, 64_000) == pytest.approx(
        (19.93 + 6.27e-4 * 64_000 + 0.0385 * 64) / 1e3
    )
    assert costs.step_seconds([], 95, 1000) == pytest.approx((7.17 + 0.58 + 0.158 * 95) / 1e3)


def test_a_decode_step_of_70b_reads_its_weights_once() -> None:
    costs = RooflineCosts(LLAMA_70B, GPUS["H100"], 4)
    assert costs.weight_bytes == pytest.approx(141.1e9, rel=0.01)
    assert costs.kv_bytes_per_token == 327_680
    least = 141.1e9 / (4 * 3.35e12)
    assert least < costs.step_seconds([], 1, 1000) < 2 * least
    # Published measurements of prefill on 8 H100 lie at 40 to 60 % of peak.
    flops = 2 * 70e9 * 8192
    assert 0.4 < flops / (4 * 989e12) / costs.step_seconds([(8192, 0)], 0, 0) < 0.6


def test_chunks_of_a_prompt_take_together_what_the_prompt_does_and_a_step_each() -> None:
    costs = RooflineCosts(LLAMA_70B, GPUS["H100"], 8)
    whole = costs.step_seconds([(8192, 0)], 0, 0)
    parts = sum(costs.step_seconds([(2048, done)], 0, 0) for done in range(0, 8192, 2048))
    assert whole < parts < 1.2 * whole


def test_a_model_that_does_not_fit_has_no_room_for_kv() -> None:
    assert RooflineCosts(LLAMA_70B, GPUS["H100"], 1).kv_tokens == 0
    assert RooflineCosts(LLAMA_70B, GPUS["H100"], 4).kv_tokens > 100_000
    with pytest.raises(SimulationError, match="divisor of the model's 64 heads and 8 KV heads"):
        RooflineCosts(LLAMA_70B, GPUS["H100"], 3)
    with pytest.raises(SimulationError, match="'H300', expected one of B200, H200"):
        find_gpu("H300")
    assert find_gpu("h100") is GPUS["H100"]


def test_workers_measure_what_their_steps_take() -> None:
    fit = measured_by_workers(
        LinearCosts(COST), longest_prompt=8192, most_requests=256, chunk_tokens=512
    )
    assert fit.measured is not None
    for new, history in ((64, 0), (512, 0), (512, 4096)):
        expected = COST.prefill_seconds(new, history)
        assert fit.model.prefill_seconds(new, history) == pytest.approx(expected, rel=0.02)
    expected = COST.decode_step_seconds(64, 64_000)
    assert fit.model.decode_step_seconds(64, 64_000) == pytest.approx(expected, rel=0.02)


def perf_model(path: Path) -> Path:
    names = "model,hardware,prompt_size,batch_size,prompt_time,token_time,tensor_parallel"
    lines = ["m,g,512,1,100,50,8", "m,g,512,1,102,52,8", "m,g,512,1,101,51,8"]
    lines += ["m,g,1024,1,200,51,8", "m,g,512,4,390,60,8", "other,g,512,1,1,1,8", "m,g,512,1,9,9,4"]
    path.write_text("\n".join([names, *lines]))
    return path


def test_splitwise_s_table_is_interpolated_between_medians(tmp_path: Path) -> None:
    costs = SplitwiseCosts(perf_model(tmp_path / "perf.csv"), "m", "g", 8)
    assert costs.step_seconds([(512, 0)], 0, 0) == pytest.approx(0.101)
    assert costs.step_seconds([(256, 0), (512, 0)], 0, 0) == pytest.approx(0.1505)
    assert costs.step_seconds([(8, 0)], 0, 0) == pytest.approx(0.101)
    assert costs.step_seconds([], 4, 99) == pytest.approx(0.060)
    assert costs.step_seconds([], 7, 99) == pytest.approx(0.069)
    assert costs.step_seconds([(512, 0)], 1, 9) == pytest.approx(0.1111)
    theirs = SplitwiseCosts(tmp_path / "perf.csv", "m", "g", 8, as_simulated=True)
    assert theirs.step_seconds([], 64, 99) == theirs.step_seconds([], 1, 99) == 0.051
    assert theirs.step_seconds([], 1536, 99) == pytest.approx(0.0555)
    with pytest.raises(
        SimulationError, match="got m on 8 x, expected one of m on 4 g, m on 8 g, other"
    ):
        SplitwiseCosts(tmp_path / "perf.csv", "m", "x", 8)
    (tmp_path / "bad.csv").write_text("model,hardware,tensor_parallel\nm,g,8\n")
    with pytest.raises(SimulationError, match=r"bad.csv, line 2: .*prompt_size"):
        SplitwiseCosts(tmp_path / "bad.csv", "m", "g", 8)


def steps_file(path: Path, number: int = 200) -> Path:
    draw = Random(1)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for _ in range(number):
            new, history = draw.randint(1, 4000), draw.randint(0, 4000)
            requests = draw.randint(0, 64)
            row = {
                "new_tokens": new,
                "attention": new * (new + 2 * history),
                "history": history,
                "decode_requests": requests,
                "decode_context": requests * draw.randint(100, 3000),
            }
            seconds = COST.decode_step_seconds(requests, row["decode_context"])
            seconds += COST.chunk_seconds(new, history)
            writer.writerow({"seconds": seconds * draw.uniform(0.98, 1.02), **row})
    return path


def test_costs_come_back_from_measured_steps(tmp_path: Path) -> None:
    costs = calibrate(steps_file(tmp_path / "steps.csv"))
    for chunks, requests, context in (([(2000, 0)], 0, 0), ([(512, 2048)], 32, 32_000)):
        expected = LinearCosts(COST).step_seconds(chunks, requests, context)
        assert costs.step_seconds(chunks, requests, context) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "line 1: got columns none, expected seconds"),
        ("seconds,new_tokens\n0,5\n", "line 2: seconds: got '0'"),
        ("seconds,new_tokens\n1,1e300\n", "line 2: new_tokens: got '1e300'"),
        ("seconds,new_tokens\n1,-5\n", "line 2: new_tokens: got '-5'"),
        ("seconds,new_tokens\n1,5\n", "got 1 steps, expected at least 50"),
        ("seconds,new_tokens\n" + "1,5\n" * 60, "too alike"),
    ],
)
def test_measured_steps_that_say_too_little_are_refused(
    tmp_path: Path, text: str, told: str
) -> None:
    path = tmp_path / "steps.csv"
    path.write_text(text)
    with pytest.raises(SimulationError, match="steps") as raised:
        calibrate(path)
    assert told in str(raised.value)


def test_weights_of_one_byte_are_read_twice_as_fast() -> None:
    small = replace(LLAMA_70B, projections="stored fp8")
    gpu = GPUS["H200"]
    half = RooflineCosts(small, gpu, 4).step_seconds([], 1, 10)
    assert half < 0.7 * RooflineCosts(LLAMA_70B, gpu, 4).step_seconds([], 1, 10)
