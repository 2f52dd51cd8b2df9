"""Whether outputs are of their schemas, and what finding the allowed tokens takes.

Run `python -m front_door.structured_output`; it appends to benchmarks/data/structured_output.csv.
`valid`: random schemas, each sent once to a router with random weights behind it, whose text is
held to it by the `jsonschema` package. `mask`: the same schemas followed at random with a
byte-level vocabulary of 151,936 tokens: what `GrammarState.allowed` takes for the first token and
for each that follows.
"""

import argparse
import asyncio
import json
import tempfile
from pathlib import Path
from random import Random
from statistics import quantiles
from time import perf_counter
from typing import Any

import jsonschema
import numpy as np
from llguidance import LLMatcher, LLTokenizer
from random_llama import random_llama
from rows import append_rows
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import lengthwise
from lengthwise_checkpoint.toy import EOS_TOKEN_ID
from lengthwise_engine.sampling.grammar import GrammarState
from lengthwise_local import LocalCluster

MAX_TOKENS = 512
"""A token is a byte."""

VOCABULARY = 151_936

TOKENS_PER_SCHEMA = 40

FORMATS = jsonschema.FormatChecker()

Row = dict[str, object]


def schema(random: Random, depth: int = 0) -> dict[str, Any]:
    """Of a kind that callers send: objects of a few fields, lists, choices, bounded texts."""
    kinds = ("string", "number", "enum", "any_of", "array", "object")
    kind = "object" if depth == 0 else random.choice(kinds if depth < 3 else kinds[:3])
    match kind:
        case "string":
            return random.choice(
                (
                    {"type": "string", "maxLength": random.randint(1, 16)},
                    {
                        "type": "string",
                        "pattern": f"^[a-z]{{1,{random.randint(1, 9)}}}-[0-9]{{2}}$",
                    },
                    {"type": "string", "format": random.choice(("date", "ipv4", "uuid"))},
                )
            )
        case "number":
            low = random.randint(-1000, 1000)
            return random.choice(
                (
                    {"type": "integer", "minimum": low, "maximum": low + random.randint(0, 5000)},
                    {"type": "boolean"},
                    {"type": "null"},
                )
            )
        case "enum":
            return {"enum": [random.choice((f"value {n}", n, n / 4)) for n in range(5)]}
        case "any_of":
            return {"anyOf": [schema(random, 3) for _ in range(2)]}
        case "array":
            return {
                "type": "array",
                "items": schema(random, depth + 1),
                "maxItems": random.randint(0, 3),
            }
    names = [f"field_{number}" for number in range(random.randint(1, 5))]
    return {
        "type": "object",
        "properties": {name: schema(random, depth + 1) for name in names},
        "required": [name for name in names if random.random() < 0.7],
        "additionalProperties": False,
    }


async def held(endpoint: str, schemas: list[dict[str, Any]]) -> Row:
    """16 requests at a time."""
    are_valid: list[bool] = []  # of those that ended by themselves
    waiting = iter(enumerate(schemas))

    async def ask(client: lengthwise.AsyncClient) -> None:
        for seed, wanted in waiting:
            completion = await client.generate(
                "JSON: ", json_schema=wanted, seed=seed, max_tokens=MAX_TOKENS
            )
            if completion.finish_reason == "stop":
                check = jsonschema.Draft202012Validator(wanted, format_checker=FORMATS)
                are_valid.append(check.is_valid(json.loads(completion.text)))

    async with lengthwise.AsyncClient(endpoint) as client:
        await asyncio.gather(*(ask(client) for _ in range(16)))
    counts = {"ended": len(are_valid), "valid": sum(are_valid)}
    return {"what": "valid", "schemas": len(schemas), **counts}


def mask_times(schemas: list[dict[str, Any]], random: Random) -> Row:
    tokenizer = large_tokenizer(random)
    first: list[float] = []
    later: list[float] = []
    for wanted in schemas:
        grammar = LLMatcher.grammar_from_json_schema(
            wanted, overrides={"whitespace_flexible": False}
        )
        state, output = GrammarState(LLMatcher(tokenizer, grammar), VOCABULARY), list[int]()
        for number in range(TOKENS_PER_SCHEMA):
            began_at = perf_counter()
            allowed = state.allowed(output)
            (later if number else first).append((perf_counter() - began_at) * 1e6)
            token_id = int(random.choice(np.flatnonzero(allowed)))
            if token_id == tokenizer.eos_token:
                break
            output.append(token_id)
    times = quantiles(later, n=100)
    return {
        "what": "mask",
        "schemas": len(schemas),
        "tokens": len(later),
        "first_p50_us": round(quantiles(first, n=100)[49], 1),
        "p50_us": round(times[49], 1),
        "p99_us": round(times[98], 1),
    }


def large_tokenizer(random: Random) -> LLTokenizer:
    """Tokens of one to nine bytes, most of them as words and JSON have them."""
    vocabulary = {
        name: index for index, name in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))
    }
    letters = 'abcdefghijklmnopqrstuvwxyz{}":,-0123456789Ġ'
    while len(vocabulary) < VOCABULARY - 1:
        text = "".join(random.choice(letters) for _ in range(random.randint(2, 9)))
        vocabulary.setdefault(text, len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>"])
    return LLTokenizer(tokenizer.to_str(), n_vocab=VOCABULARY, eos_token=[VOCABULARY - 1])


COLUMNS = ("what", "schemas", "ended", "valid", "tokens", "first_p50_us", "p50_us", "p99_us")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--schemas", type=int, default=500)
    parser.add_argument("--dry", action="store_true", help="print rows without recording them")
    arguments = parser.parse_args()
    random = Random(0)
    schemas = [schema(random) for _ in range(arguments.schemas)]
    with tempfile.TemporaryDirectory() as folder:
        model = random_llama(Path(folder), hidden=64, layers=2, eos_token_id=EOS_TOKEN_ID)
        with LocalCluster(model=model, device="cpu") as cluster:
            rows = [asyncio.run(held(cluster.endpoint, schemas)), mask_times(schemas, random)]
    whole = [{column: row.get(column, "") for column in COLUMNS} for row in rows]
    for row in whole:
        print(row)
    if not arguments.dry:
        append_rows("structured_output", whole)


if __name__ == "__main__":
    main()
