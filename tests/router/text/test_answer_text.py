"""Where an answer's text ends: at stop strings, special tokens among them, wherever tokens end."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models

from lengthwise_router.text.answer_text import AnswerText
from lengthwise_router.text.vocabulary import Vocabulary

SPECIAL = ("<|end|>", "<|start|>", "<|end|>x")


def _tokenizer() -> Tokenizer:
    """Bytes as in Llama 2, a few words, and special tokens one of which begins another."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁a", "b", "c", "▁", "\n"]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab, [], byte_fallback=True, unk_token="<unk>"))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    return tokenizer


TOKENIZER = _tokenizer()
VOCABULARY = Vocabulary(TOKENIZER)
IDS = TOKENIZER.get_vocab()


def ids_of(*tokens: str) -> list[int]:
    """Of tokens, or of the bytes of texts that are none."""
    ids: list[int] = []
    for token in tokens:
        ids += [IDS[token]] if token in IDS else [byte + 1 for byte in token.encode()]
    return ids


def answer(
    tokens: Sequence[int],
    stop_strings: Sequence[str],
    *,
    prompt: Sequence[int] = (),
    resumed: int = 0,
    min_tokens: int = 0,
    shown: Sequence[str] = (),
) -> tuple[str, int | None]:
    """The text, and after how many tokens it was stopped. With `resumed` tokens, what comes after
    the text that was certain after them."""
    text = AnswerText(VOCABULARY, prompt, stop_strings, min_tokens, shown)
    text.resume(tokens[:resumed])
    if text.is_stopped:
        return "", resumed
    count, given = text.append(tokens[resumed:])
    given += text.finish()
    return given, resumed + count if text.is_stopped else None


@pytest.mark.parametrize(
    ("tokens", "stop", "expected"),
    [
        pytest.param(["▁a", "<|end|>", "b"], "<|end|>", (" a", 2), id="alone"),
        pytest.param(["▁a", "<|end|>", "b"], "<|start|>", (" ab", None), id="another one"),
        pytest.param(["▁a", "<|start|>", "b", "c"], "<|start|>b", (" a", 3), id="and text after"),
        pytest.param(["▁a", "b", "<|start|>", "c"], "b<|start|>", (" a", 3), id="and text before"),
        pytest.param(
            ["▁a", "<|end|>", "\n", "<|start|>", "b"],
            "<|end|>\n<|start|>",
            (" a", 4),
            id="two of them",
        ),
        pytest.param(
            ["▁a", "<|end|>", "c", "<|end|>", "b"], "<|end|>b", (" ac", 5), id="the second time"
        ),
        pytest.param(["▁a", "<|end|>", "b"], "ab", (" ", 3), id="none between text"),
        pytest.param(["▁a", "<|end|>"], "end", (" a", None), id="not by a part of its name"),
        pytest.param(["▁a", "<|end|>x", "b"], "<|end|>x", (" a", 2), id="the longest"),
        pytest.param(["▁a", "🙂", "<|end|>", "b"], "<|end|>", (" a🙂", 6), id="after bytes"),
        pytest.param(["▁a", "<|end|>", "🙂"], "<|end|>🙂", (" a", 6), id="before bytes"),
        pytest.param(["<|end|>"], "<|end|>", ("", 1), id="first"),
        pytest.param(["▁a", *"<|end|>"], "<|end|>", (" a", 8), id="written out"),
    ],
)
def test_special_tokens_work_in_stop_strings(
    tokens: list[str], stop: str, expected: tuple[str, int | None]
) -> None:
    assert answer(ids_of(*tokens), [stop], prompt=ids_of("b")) == expected


def test_a_special_token_that_comes_too_early_does_not_count() -> None:
    tokens = ids_of("▁a", "<|end|>", "b", "<|end|>", "c")
    assert answer(tokens, ["<|end|>"], prompt=ids_of("b"), min_tokens=2) == (" ab", 4)


def test_a_stop_string_never_begins_in_the_prompt() -> None:
    assert answer(ids_of("c", "b"), ["bc", "▁ac", " c"], prompt=ids_of("▁a", "b")) == ("cb", None)


def test_a_character_that_the_prompt_began_is_the_answers() -> None:
    half = ids_of("🙂")
    tokens = [*half[2:], *ids_of("c")]
    assert answer(tokens, [], prompt=half[:2]) == ("🙂c", None)
    assert answer(tokens, ["🙂"], prompt=half[:2]) == ("", 3)


@pytest.mark.parametrize(
    ("tokens", "stop", "expected"),
    [
        pytest.param(["▁a", "<|start|>", "b"], [], (" a<|start|>b", None), id="one of two"),
        pytest.param(["<|start|>", "▁a", "<|end|>"], [], ("<|start|> a", None), id="not the other"),
        pytest.param(["▁a", "<|start|>", "b"], ["<|start|>"], (" a", 2), id="stopped by it"),
        pytest.param(["▁a", "<|start|>", "b"], ["start"], (" a<|", 2), id="and by a part of it"),
        pytest.param(["▁a", "<|start|>", "<|end|>"], ["<|start|><|end|>"], (" a", 3), id="both"),
        pytest.param(["▁a", "<|start|>", "🙂"], ["z"], (" a<|start|>🙂", None), id="before bytes"),
    ],
)
def test_special_tokens_that_are_shown_are_text(
    tokens: list[str], stop: list[str], expected: tuple[str, int | None]
) -> None:
    given = answer(ids_of(*tokens), stop, prompt=ids_of("b"), shown=["<|start|>", "<unheard>"])
    assert given == expected


words = st.lists(st.sampled_from(ids_of("▁a", "b", "c", "▁", "\n", *SPECIAL, "é")), max_size=12)
stops = st.lists(
    st.lists(st.sampled_from([" a", "b", "c", " ", "é", *SPECIAL]), min_size=1, max_size=3).map(
        "".join
    ),
    max_size=3,
)


@given(
    tokens=words,
    prompt=words,
    strings=stops,
    cut=st.integers(0, 12),
    least=st.integers(0, 12),
    shown=st.sampled_from([(), SPECIAL[:1], SPECIAL]),
)
def test_a_stream_resumed_elsewhere_gives_the_very_text(
    tokens: list[int],
    prompt: list[int],
    strings: list[str],
    cut: int,
    least: int,
    shown: Sequence[str],
) -> None:
    """What the first router gave and what the second one gives, joined, is what one would give."""
    whole, stopped = answer(tokens, strings, prompt=prompt, min_tokens=least, shown=shown)
    resumed = min(cut, len(tokens) if stopped is None else stopped - 1)
    first = AnswerText(VOCABULARY, prompt, strings, least, shown)
    given = "".join(first.append([token_id])[1] for token_id in tokens[:resumed])
    rest, stopped_too = answer(
        tokens, strings, prompt=prompt, resumed=resumed, min_tokens=least, shown=shown
    )
    assert (given + rest, stopped_too) == (whole, stopped)
    again = AnswerText(VOCABULARY, prompt, strings, least, shown)
    assert again.resume(tokens[:resumed]) == given


@given(tokens=words, prompt=words, cut=st.integers(0, 12))
def test_prompt_and_answer_are_all_tokens(tokens: list[int], prompt: list[int], cut: int) -> None:
    rest, _ = answer(tokens, [], prompt=prompt, resumed=min(cut, len(tokens)))
    assert VOCABULARY.decode([*prompt, *tokens]).endswith(rest)
