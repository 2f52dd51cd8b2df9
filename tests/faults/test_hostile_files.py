"""Checkpoints from strangers: whatever is wrong with a file is one clear line at the start, and
never a traceback, a crash or a wait without end."""

from collections.abc import Callable, Mapping
from pathlib import Path

import grpc
import pytest
from faults.checkpoints import change_config, read_json, write_json
from faults.processes import NOBODY, Serve, alone

from lengthwise_router.config import DiscoveryConfig
from lengthwise_wire.v1 import inference_pb2, inference_pb2_grpc

Spoil = Callable[[Path], object]

NOBODY_THERE = DiscoveryConfig(endpoints=(NOBODY,))
NESTED = "[" * 100_000

SPOILT: Mapping[str, tuple[Spoil, str]] = {
    "nested config": (lambda folder: (folder / "config.json").write_text(NESTED), "config.json"),
    "nested generation config": (
        lambda folder: (folder / "generation_config.json").write_text(NESTED),
        "generation_config.json",
    ),
    "a template that is not UTF-8": (
        lambda folder: (folder / "chat_template.jinja").write_bytes(b"\xff\xfe{{"),
        "chat_template.jinja",
    ),
    "rope_scaling as a list": (
        lambda folder: change_config(folder, rope_scaling=["yarn"]),
        "rope_scaling",
    ),
    "a template of numbers": (
        lambda folder: write_json(folder, "tokenizer_config.json", {"chat_template": [1]}),
        "chat_template",
    ),
}


@pytest.mark.parametrize(("spoil", "told"), SPOILT.values(), ids=SPOILT.keys())
async def test_what_is_wrong_with_a_file_is_told_by_its_name(
    toy: Path, serve: Serve, spoil: Spoil, told: str
) -> None:
    spoil(toy)
    with pytest.raises(BaseException, match=told) as caught:
        await serve(toy, 0, 0, discovery=NOBODY_THERE)
    assert type(caught.value).__name__ == "ConfigError"


@pytest.mark.slow
async def test_a_tokenizer_whose_regular_expression_panics_is_the_requests_error(
    toy: Path, tmp_path: Path
) -> None:
    """What the bindings raise then is no Exception."""
    tokenizer = read_json(toy, "tokenizer.json")
    pattern = {"Regex": "(?:a|aa)+$"}
    tokenizer["pre_tokenizer"] = {
        "type": "Split",
        "pattern": pattern,
        "behavior": "Isolated",
        "invert": False,
    }
    write_json(toy, "tokenizer.json", tokenizer)
    text = inference_pb2.TokenizeRequest(prompt=inference_pb2.Prompt(text="a" * 60 + "!"))
    with alone("router", toy, tmp_path) as router:
        async with grpc.aio.insecure_channel(router.address) as channel:
            stub = inference_pb2_grpc.InferenceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Tokenize(text, timeout=4)
            await stub.GetModel(inference_pb2.GetModelRequest(), timeout=5)
        assert "Traceback" not in router.log_path.read_text()
    assert caught.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL)
