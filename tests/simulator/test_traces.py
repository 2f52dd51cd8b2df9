"""Every published format is read, and whatever is wrong with a file is said in one line."""

import gzip
import json
from pathlib import Path

import pytest

from lengthwise_policy.kv.prefix_cache import short_hash, short_hashes
from lengthwise_simulator.errors import SimulationError
from lengthwise_simulator.workload.requests import as_recorded
from lengthwise_simulator.workload.text import TextSpan, block_names
from lengthwise_simulator.workload.traces import (
    OWN_KEYS,
    SESSION_KEYS,
    TraceRow,
    read_trace,
)

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
NEWER = BURST.replace("Timestamp,", "Timestamp,Session ID,Elapsed time,")
TRACES = Path(__file__).parents[3] / "shared" / "traces"


def rows_of(path: Path, text: str) -> list[TraceRow]:
    path.write_text(text)
    return read_trace(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trace"


def numbers(rows: list[TraceRow]) -> list[tuple[float | None, int, int]]:
    return [row[:3] for row in rows]


def test_azure_of_2023_and_of_2024(path: Path) -> None:
    old = "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"
    new = "2024-05-10 00:00:00.009930+00:00,2162,5\n2024-05-10 00:00:00.017335+00:00,2399,6\n"
    assert numbers(rows_of(path, AZURE + old)) == [
        (0, 374, 44),
        (pytest.approx(4.314579), 396, 109),
    ]
    assert numbers(rows_of(path, AZURE + new)) == [
        (0, 2162, 5),
        (pytest.approx(0.007405, rel=1e-4), 2399, 6),
    ]


def test_burst_gpt_with_and_without_sessions(path: Path) -> None:
    rows = (
        "5,ChatGPT,472,18,490,Conversation log\n"
        "45,ChatGPT,1087,0,1087,API log\n"
        "118,GPT-4,417,276,693,API log\n"
    )
    found = rows_of(path, BURST + rows)
    assert numbers(found) == [(0, 472, 18), (113, 417, 276)]  # the second has failed
    assert len({row.text[0].key for row in found}) == 2
    rows = (
        "5,7,1.0,ChatGPT,472,18,490,Conversation log\n9,7,2.0,ChatGPT,600,20,620,Conversation log\n"
    )
    one, other = rows_of(path, NEWER + rows)
    assert one.text[0].key == other.text[0].key


def test_mooncake_shares_what_its_hashes_share(path: Path) -> None:
    lines = [
        {"timestamp": 0, "input_length": 1100, "output_length": 5, "hash_ids": [3, 4, 5]},
        {"timestamp": 2500, "input_length": 1030, "output_length": 6, "hash_ids": [3, 4, 9]},
    ]
    one, other = rows_of(path, "\n".join(map(json.dumps, lines)))
    assert (other.arrived_at, other.prompt_tokens) == (2.5, 1030)
    left, right = (block_names(row.text, 16, 0, 64 + 4) for row in (one, other))
    assert left[:64] == right[:64]
    assert not set(left[64:]) & set(right[64:])


def test_lengths_with_and_without_times_gzipped_too(path: Path) -> None:
    assert numbers(rows_of(path, "prompt_tokens,output_tokens\n107,15\n")) == [(None, 107, 15)]
    zipped = path.with_suffix(".gz")
    with gzip.open(zipped, "wt") as file:
        file.write("arrived_at,prompt_tokens,output_tokens\n3,1,2\n4.5,3,4\n")
    assert numbers(read_trace(zipped)) == [(0.0, 1, 2), (1.5, 3, 4)]
    with pytest.raises(SimulationError, match="lengths alone"):
        as_recorded(read_trace(path))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "line 1: got columns none, expected TIMESTAMP/ContextTokens"),
        (AZURE, "holds no request"),
        ("a,b\n1,2\n", "got columns a, b"),
        (AZURE + "yesterday,3,4\n", "line 2: TIMESTAMP: got 'yesterday', expected a time"),
        (
            AZURE + "2023-11-16 18:15:46,0,4\n",
            "line 2: ContextTokens: got '0', expected an integer",
        ),
        (AZURE + "2023-11-16 18:15:46,-3,4\n", "ContextTokens: got '-3'"),
        (AZURE + "2023-11-16 18:15:46,3\n", "GeneratedTokens: got None"),
        (AZURE + "2023-11-16 18:15:46,3,1e99\n", "from 1 to 16777216"),
        (AZURE + "2023-11-16 18:15:46,3,nan\n", "GeneratedTokens: got 'nan'"),
        (AZURE + "2023-11-16 18:15:46,3,4\n2023-11-16 18:15:45,3,4\n", "line 3: time goes back"),
        (BURST + "inf,ChatGPT,4,5,9,API log\n", "Timestamp: got 'inf'"),
        ('{"timestamp": 0}', "line 1: input_length: got None"),
        ('{"timestamp": 0, "input_length": true, "output_length": 3}', "input_length: got True"),
        ("{", "line 1: not JSON"),
        (
            f'{{"timestamp": 0, "input_length": {10**400}, "output_length": 3}}',
            "expected an integer from 1 to 16777216",
        ),
        ("{}\n[]", "timestamp: got None"),
        (
            '{"timestamp": 0, "input_length": 1100, "output_length": 5, "hash_ids": [1]}',
            "expected one id for each 512 of the 1100 tokens",
        ),
        ('{"timestamp": 0, "input_length": 4, "output_length": 5, "hash_ids": [-1]}', "got -1"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(path: Path, text: str, told: str) -> None:
    with pytest.raises(SimulationError) as raised:
        rows_of(path, text)
    assert told in str(raised.value)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_bytes_that_are_no_text_are_refused(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SimulationError, match="not UTF-8"):
        read_trace(path)
    zipped = path.with_suffix(".gz")
    zipped.write_bytes(b"plain")
    with pytest.raises(SimulationError, match="not gzip"):
        read_trace(zipped)


@pytest.mark.slow
@pytest.mark.skipif(not TRACES.is_dir(), reason="needs shared/traces")
@pytest.mark.parametrize(
    ("name", "mean_prompt"),
    [
        ("azure_llm_2023_conv.csv", 1155),
        ("mooncake_conversation.jsonl", 12_035),
        ("sharegpt_lengths.csv", 299),
    ],
)
def test_real_traces_have_their_published_means(name: str, mean_prompt: float) -> None:
    rows = read_trace(TRACES / name)
    mean = sum(row.prompt_tokens for row in rows) / len(rows)
    assert mean == pytest.approx(mean_prompt, rel=0.01)


def test_a_block_is_named_by_all_that_lies_before_its_end() -> None:
    text = (TextSpan(1, 20), TextSpan(2, 12), TextSpan(3, 1))
    names = block_names(text, 16, 0, 4)
    assert len(set(names)) == 4
    assert names[0] == block_names((TextSpan(1, 20),), 16, 0, 1)[0]
    assert names[1] == block_names((TextSpan(9, 20), TextSpan(2, 12)), 16, 1, 2)[0]
    assert block_names(text, 16, 2, 4) == names[2:]


def test_no_two_blocks_of_any_texts_have_one_name() -> None:
    keys = [0, 1, 2, 513, OWN_KEYS, OWN_KEYS + 1, SESSION_KEYS - 1, SESSION_KEYS, 2 * SESSION_KEYS]
    names = [name for key in keys for name in block_names((TextSpan(key, 1),), 16, 0, 20_000)]
    assert len(set(names)) == len(names)
    assert len(set(short_hashes(names))) == len(names)
    assert short_hashes(names[:3]) == tuple(map(short_hash, names[:3]))
