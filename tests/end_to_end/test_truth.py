"""The router and the SDK as users have them say what `transformers` says, to the letter."""

from collections.abc import Iterator

import pytest
from harness.reference import DEMO_MODEL, Reference

import lengthwise
from lengthwise_local import LocalCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

LINE = "def read_lines(path):\n    with open(path) as file:\n        return list(file)\n\n\n"
PROMPTS = {
    "one word": "import",
    "a line": "class Queue:\n",
    "not of ASCII": "# Grüße, 数えます\ndef count(",
    "one step of prefill": 8 * LINE + "def",
    "several steps": 40 * LINE + "def",
}
NUM_TOKENS = 40


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(DEMO_MODEL)


@pytest.fixture(scope="module")
def client() -> Iterator[lengthwise.Client]:
    """Of the demo model's deployment as `lengthwise up` starts it, but with another decode worker
    and in the type of `Reference`."""
    with (
        LocalCluster(model=DEMO_MODEL, decode=2, settings=["dtype=float32"]) as cluster,
        lengthwise.Client(cluster.endpoints) as client,
    ):
        yield client


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS.keys())
def test_tokens_and_text_are_those_of_transformers(
    client: lengthwise.Client, reference: Reference, prompt: str
) -> None:
    expected = reference.token_ids(prompt, NUM_TOKENS)
    assert len(expected) == NUM_TOKENS
    # The second time its blocks are cached.
    for _ in range(2):
        completion = client.generate(prompt, max_tokens=NUM_TOKENS, temperature=0, ignore_eos=True)
        assert completion.token_ids == expected
        assert completion.text == reference.text(expected)
        assert completion.usage.prompt_tokens == len(reference.tokenizer.encode(prompt).ids)


def test_the_pieces_of_a_stream_joined_are_the_text(
    client: lengthwise.Client, reference: Reference
) -> None:
    prompt = PROMPTS["a line"]
    pieces = client.stream(prompt, max_tokens=NUM_TOKENS, temperature=0, ignore_eos=True)
    expected = reference.text(reference.token_ids(prompt, NUM_TOKENS))
    assert "".join(piece.text for piece in pieces) == expected
