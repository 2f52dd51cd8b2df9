"""What the demo model reads: the standard library of the Python that runs this.

Every machine with Python has this text, so the model can be made again anywhere without a download.
Invariant: a held-out file is never trained on.
"""

import ast
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise

from lengthwise_engine.accuracy.corpus import HELD_OUT_EVERY, held_out, python_sources

WHOLE_FILE_SHARE = 0.5
CUT_AT_STATEMENT = 0.3
# A prompt may end anywhere: after a space, inside a word. Text is tokenised in pieces of about this
# many characters, so that the model has seen tokens broken at such places.
PIECE_CHARACTERS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    name: str
    text: str
    statements: tuple[int, ...]  # character offsets where top-level statements begin, ascending


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    training: tuple[SourceFile, ...]
    held_out: tuple[SourceFile, ...]


def read_corpus() -> Corpus:
    files = [
        SourceFile(name=name, text=text, statements=_top_level_statements(text))
        for name, text in python_sources()
    ]
    return Corpus(
        training=tuple(f for i, f in enumerate(files) if i % HELD_OUT_EVERY),
        held_out=tuple(held_out(files)),
    )


def documents(files: tuple[SourceFile, ...], rng: random.Random) -> Iterator[str]:
    """One pass over the files: each whole, or cut into runs of top-level statements.

    The runs teach that a text may begin with any statement, as prompts do, and may end after one.
    """
    for file in rng.sample(files, len(files)):
        cuts = [0, len(file.text)]
        if rng.random() >= WHOLE_FILE_SHARE:
            cuts[1:1] = [at for at in file.statements if rng.random() < CUT_AT_STATEMENT]
        for start, stop in pairwise(cuts):
            if document := file.text[start:stop].strip("\n"):
                yield document + "\n"


def pieces(document: str, rng: random.Random) -> list[str]:
    """The document cut at random characters; joined, the pieces are the document again."""
    number_of_cuts = round(rng.expovariate(PIECE_CHARACTERS / len(document)))
    cuts = sorted(rng.choices(range(len(document)), k=number_of_cuts))
    return [document[a:b] for a, b in zip([0, *cuts], [*cuts, len(document)], strict=True)]


def _top_level_statements(text: str) -> tuple[int, ...]:
    """A statement begins at its decorators and at the comment lines right above it."""
    lines = text.split("\n")
    offsets = [0, *accumulate(len(line) + 1 for line in lines)]
    starts = []
    for node in ast.parse(text).body:
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]) - 1
        while first > 0 and lines[first - 1].startswith("#"):
            first -= 1
        starts.append(offsets[first])
    return tuple(sorted(set(starts) - {0}))
