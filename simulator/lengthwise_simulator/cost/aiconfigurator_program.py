"""What the Python runs that has aiconfigurator: it imports nothing of ours, and is not imported.

A line of its input is a question: {"config": a model's config.json, "system": "h200_sxm",
"ranks": 1, "steps": [[new, past, requests, context], ...]}: steps that compute `new` tokens of a
prompt after `past`, and a token for each of `requests` after `context`. The last line of its output
has an answer for each: {"version": ..., "steps": [[all but attention, prompt's attention, decodes'
attention], ...]} in milliseconds, or {"error": ...}.
"""

import json
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

BACKEND = "vllm"


@cache
def _database(system: str) -> tuple[Any, str]:
    from aiconfigurator.sdk import perf_database

    version = perf_database.get_latest_database_version(system, BACKEND)
    database = perf_database.get_database(system, BACKEND, version) if version else None
    if database is None:
        raise ValueError(f"no tables of {system} with {BACKEND}")
    return database, version


def _session(question: dict[str, Any]) -> Any:
    from aiconfigurator.sdk import config, models
    from aiconfigurator.sdk.backends.factory import get_backend
    from aiconfigurator.sdk.inference_session import InferenceSession

    shape = question["config"]
    architecture = f"{str(shape.get('model_type')).capitalize()}ForCausalLM"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "config.json")
        file.write_text(json.dumps({"architectures": [architecture], **shape}), encoding="utf-8")
        ranks = config.ModelConfig(tp_size=question["ranks"])
        model = models.get_model(folder, ranks, BACKEND)
    return InferenceSession(model, _database(question["system"])[0], get_backend(BACKEND))


def _step(session: Any, new: int, past: int, requests: int, context: int) -> list[float]:
    from aiconfigurator.sdk.config import RuntimeConfig
    from aiconfigurator_core.sdk.step_estimate import MixedStepInput

    def mixed(tokens: int, decodes: int, length: int) -> dict[str, float]:
        asked = RuntimeConfig(batch_size=1, isl=length, osl=2)
        step = MixedStepInput(context_tokens=tokens, num_decode_requests=decodes)
        parts: dict[str, float] = session.run_mixed(asked, step).component_latency_ms
        return parts

    rest = mixed(new + requests, 0, new + requests)["shared_non_attention"]
    prompt = decodes = 0.0
    if new:
        asked = RuntimeConfig(batch_size=1, isl=past + new, osl=1, prefix=past)
        whole = session.run_static_latency_only(asked, "static_ctx")
        prompt = max(whole - mixed(new, 0, new)["shared_non_attention"], 0.0)
    if requests:
        decodes = mixed(1, requests, context)["decode_attention"]
    return [round(float(part), 4) for part in (rest, prompt, decodes)]


def _answer(question: dict[str, Any]) -> dict[str, Any]:
    import aiconfigurator

    try:
        session = _session(question)
        steps = [_step(session, *step) for step in question["steps"]]
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    version = f"{aiconfigurator.__version__}, {BACKEND} {_database(question['system'])[1]}"
    return {"version": f"aiconfigurator {version}", "steps": steps}


if __name__ == "__main__":
    print(json.dumps([_answer(json.loads(line)) for line in sys.stdin]))
