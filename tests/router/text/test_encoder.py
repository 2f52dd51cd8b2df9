"""Texts of any length become the ids that the tokenizer gives them, and what cannot fit costs
little."""

import asyncio
import resource
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from lengthwise_router.text.encoder import LONG_CHARACTERS, MAX_WAITING_CHARACTERS, TextEncoder
from lengthwise_wire.errors import InvalidRequest, Overloaded, PromptTooLong

CONTEXT = 4_096


def byte_tokenizer() -> Tokenizer:
    """Bytes, and tokens of 2 to 64 spaces."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {character: rank for rank, character in enumerate(alphabet)}
    merges = []
    for half in (1, 2, 4, 8, 16, 32):
        vocab["Ġ" * 2 * half] = len(vocab)
        merges.append(("Ġ" * half, "Ġ" * half))
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return tokenizer


def swallowing() -> Tokenizer:
    """A token that takes the spaces before it."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens([AddedToken("<m>", lstrip=True, special=True)])
    return tokenizer


def stripping() -> Tokenizer:
    tokenizer = byte_tokenizer()
    tokenizer.normalizer = normalizers.Strip()
    return tokenizer


def words() -> Tokenizer:
    """Whole words, and one token for all that are unknown; spaces are none."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def collapsing() -> Tokenizer:
    tokenizer = byte_tokenizer()
    tokenizer.normalizer = normalizers.Replace(Regex(" {2,}"), " ")
    return tokenizer


def decomposing() -> Tokenizer:
    tokenizer = byte_tokenizer()
    tokenizer.normalizer = normalizers.NFKC()
    return tokenizer


@asynccontextmanager
async def encoder(tokenizer: Tokenizer) -> AsyncIterator[TextEncoder]:
    encoder = TextEncoder(
        tokenizer,
        vocab_size=tokenizer.get_vocab_size(),
        context_length=CONTEXT,
        threads=1,
    )
    yield encoder
    encoder.close()


async def ids(encoder: TextEncoder, text: str) -> list[int]:
    encoded = encoder.encode(text, "prompt.text", special=True)
    return encoded if isinstance(encoded, list) else await encoded


@pytest.mark.parametrize(
    ("make", "text"),
    [
        pytest.param(byte_tokenizer, " " * 64 * 3_000, id="long tokens"),
        pytest.param(byte_tokenizer, ("x" + " " * 511) * 200, id="words far apart"),
        pytest.param(swallowing, "hi" + " " * 1_000_000 + "<m>", id="swallowed spaces"),
        pytest.param(stripping, " " * 1_000_000 + "hi", id="stripped spaces"),
        pytest.param(
            swallowing, "hi\x1c" + " " * 400_000 + "<m>", id="swallowed after a separator"
        ),
        pytest.param(
            stripping, "\u3000" * 400_000 + "hi" + "\n" * 400_000, id="stripped at both ends"
        ),
        pytest.param(collapsing, "\nhi" + " " * 400_000 + "you", id="collapsed spaces"),
        pytest.param(byte_tokenizer, "hi" + " " * 64 * 4_000, id="one long run of spaces"),
        pytest.param(words, "x" * 1_000_000, id="an unknown word"),
        pytest.param(words, "a" + " " * 1_000_000 + "a", id="spaces that are no tokens"),
    ],
)
async def test_a_long_text_of_few_tokens_is_encoded_as_by_the_tokenizer(
    make: Callable[[], Tokenizer], text: str
) -> None:
    tokenizer = make()
    truth = tokenizer.encode(text).ids
    assert len(text) > 4 * CONTEXT
    assert len(truth) < CONTEXT
    async with encoder(tokenizer) as texts:
        assert await ids(texts, text) == truth


@pytest.mark.parametrize(
    ("make", "text"),
    [
        pytest.param(byte_tokenizer, "0123456789" * 400_000, id="digits"),
        pytest.param(byte_tokenizer, " \t" * 2_000_000, id="spaces and tabs"),
        pytest.param(byte_tokenizer, "\n" * 4_000_000, id="lines"),
        pytest.param(byte_tokenizer, "hi" + "\u2003" * 1_300_000 + "you", id="wide spaces"),
        pytest.param(stripping, "hi" + "\n" * 4_000_000 + "you", id="lines between words"),
        pytest.param(swallowing, "<m>" + "\n" * 4_000_000 + "hi", id="lines after a token"),
        pytest.param(decomposing, "\ufdfa" * 1_300_000, id="characters that become many"),
        pytest.param(decomposing, "\ufdfa" * 6 * CONTEXT, id="a few of them"),
    ],
)
async def test_a_text_that_cannot_fit_is_refused_before_all_of_it_is_encoded(
    make: Callable[[], Tokenizer], text: str
) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with encoder(make()) as texts:
        with pytest.raises(PromptTooLong, match="context holds 4096"):
            await ids(texts, text)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024  # KiB


async def test_texts_that_wait_are_bounded_and_shorter_ones_do_not_wait_for_them() -> None:
    async with encoder(byte_tokenizer()) as texts:
        size = MAX_WAITING_CHARACTERS // 4
        waiting = [texts.encode("1" * size, "prompt.text", special=True) for _ in range(4)]
        with pytest.raises(Overloaded, match="very long texts of 16777216 characters wait"):
            texts.encode("1" * size, "prompt.text", special=True)
        assert len(await ids(texts, "1" * 3_000)) == 3_000
        for each in waiting:
            assert isinstance(each, asyncio.Future)
            with pytest.raises(PromptTooLong):
                await each
        await asyncio.sleep(0)  # for their callbacks
        with pytest.raises(PromptTooLong):
            await ids(texts, "1" * size)


async def test_a_tokenizer_that_panics_refuses_the_text() -> None:
    class PanicException(BaseException):
        pass

    class Panicking:
        normalizer = None

        def encode_batch_fast(self, *_: object, **__: object) -> list[object]:
            raise PanicException("index out of bounds")

    tokenizer: Any = Panicking()
    texts = TextEncoder(tokenizer, vocab_size=1, context_length=9, threads=1)
    for text in ("short", "x" * 3_000, "x" * (LONG_CHARACTERS + 1)):
        with pytest.raises(InvalidRequest, match="fails on it: index out of bounds"):
            await ids(texts, text)
    texts.close()
