"""Streamed text is the one-shot decode, whatever the tokens and however they are grouped."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from lengthwise_router.text.detokenizer import WindowDetokenizer, detokenizer_after
from lengthwise_router.text.vocabulary import Vocabulary

_PIECES = ("a", "b", "the", "é", "日本", "🙂", "👩‍🚀", ".", "\n", "don't", " ")


def _byte_level() -> Tokenizer:
    """As GPT-2, Llama 3 and Qwen: all bytes, some pieces that end within a character."""
    pre = pre_tokenizers.ByteLevel(add_prefix_space=False)
    vocab = {character: index for index, character in enumerate(sorted(pre.alphabet()))}
    for piece in (*_PIECES, " the", " 日"):
        ((characters, _),) = pre_tokenizers.ByteLevel(
            add_prefix_space=False, use_regex=False
        ).pre_tokenize_str(piece)
        for size in range(1, len(characters) + 1):
            vocab.setdefault(characters[:size], len(vocab))
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.ByteLevel()
    return _with_added_tokens(tokenizer)


def _sentencepiece_vocabulary() -> dict[str, int]:
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", "▁▁", "▁▁▁a", "▁a", "a▁", "▁the", "x▁y", *_PIECES[:6], *_PIECES[7:9]]
    return {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}


def _llama_2() -> Tokenizer:
    """As Llama 2: byte fallback, and one space stripped from the start."""
    tokenizer = Tokenizer(
        models.BPE(
            vocab=_sentencepiece_vocabulary(), merges=[], byte_fallback=True, unk_token="<unk>"
        )
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return _with_added_tokens(tokenizer)


def _gemma() -> Tokenizer:
    """As Gemma: byte fallback, nothing stripped."""
    tokenizer = _llama_2()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return tokenizer


def _metaspace() -> Tokenizer:
    """As T5 and some conversions of Llama."""
    tokenizer = _llama_2()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return tokenizer


def _plain_metaspace() -> Tokenizer:
    tokenizer = _llama_2()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def _word_piece() -> Tokenizer:
    """As BERT: a space before every piece that does not go on a word."""
    vocab = ["[UNK]", "the", "##a", "##b", ".", "'s", "n't", "日", "##本", "do", "[", "##"]
    tokenizer = Tokenizer(
        models.WordPiece({piece: index for index, piece in enumerate(vocab)}, unk_token="[UNK]")
    )
    tokenizer.decoder = decoders.WordPiece(cleanup=True)
    return _with_added_tokens(tokenizer)


def _word_ends() -> Tokenizer:
    """As the first GPT: a suffix says that a word ends, and the last word has no space after it."""
    vocab = ["<unk>", "the</w>", "a", "b</w>", "</w>", "日", "本</w>"]
    tokenizer = Tokenizer(
        models.BPE({piece: index for index, piece in enumerate(vocab)}, [], unk_token="<unk>")
    )
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    return _with_added_tokens(tokenizer)


def _no_decoder() -> Tokenizer:
    """A space between any two tokens."""
    tokenizer = _llama_2()
    tokenizer.decoder = None
    return tokenizer


def _wide_strip() -> Tokenizer:
    """Up to three spaces stripped from the start."""
    tokenizer = _llama_2()
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 3, 0)])
    return tokenizer


def _with_added_tokens(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True)])
    tokenizer.add_tokens([AddedToken("<tool>", special=False), AddedToken("日 ", special=False)])
    tokenizer.add_tokens([AddedToken("é!", special=False)])
    return tokenizer


TOKENIZERS = {
    "byte level": _byte_level(),
    "llama 2": _llama_2(),
    "gemma": _gemma(),
    "metaspace with byte fallback": _metaspace(),
    "metaspace": _plain_metaspace(),
    "word pieces": _word_piece(),
    "word ends": _word_ends(),
    "no decoder": _no_decoder(),
    "three spaces stripped": _wide_strip(),
}
VOCABULARIES = {name: Vocabulary(tokenizer) for name, tokenizer in TOKENIZERS.items()}

MAX_ID = 10 + max(tokenizer.get_vocab_size() for tokenizer in TOKENIZERS.values())

by_tokenizer = pytest.mark.parametrize("name", TOKENIZERS)


@st.composite
def grouped_tokens(draw: st.DrawFn) -> list[list[int]]:
    """Random ids, a few of them of no token, in random groups; with runs of bytes."""
    token_id = st.integers(0, MAX_ID)
    byte_run = st.text(min_size=1, max_size=3).map(
        lambda text: [byte + 1 for byte in text.encode(errors="replace")]
    )
    parts = draw(st.lists(st.one_of(token_id.map(lambda item: [item]), byte_run), max_size=30))
    ids = [item for part in parts for item in part]
    cuts = sorted(draw(st.sets(st.integers(0, len(ids)))) | {0, len(ids)})
    return [ids[start:end] for start, end in pairwise(cuts)]


def flat(groups: Sequence[Sequence[int]]) -> list[int]:
    return [token_id for group in groups for token_id in group]


def stream(name: str, groups: Sequence[Sequence[int]], prompt_ids: Sequence[int] = ()) -> list[str]:
    detokenizer = detokenizer_after(prompt_ids, VOCABULARIES[name])
    return [*(detokenizer.append(group) for group in groups), detokenizer.finish()]


@pytest.mark.slow
@by_tokenizer
@given(groups=grouped_tokens())
def test_the_pieces_joined_are_the_one_shot_decode(name: str, groups: list[list[int]]) -> None:
    whole = TOKENIZERS[name].decode(flat(groups), skip_special_tokens=True)
    assert "".join(stream(name, groups)) == whole


@by_tokenizer
@given(prompt_ids=grouped_tokens().map(flat), groups=grouped_tokens())
def test_an_answer_is_what_all_tokens_say_beyond_the_prompt(
    name: str, prompt_ids: list[int], groups: list[list[int]]
) -> None:
    tokenizer = TOKENIZERS[name]
    prompt = tokenizer.decode(prompt_ids, skip_special_tokens=True)
    whole = tokenizer.decode([*prompt_ids, *flat(groups)], skip_special_tokens=True)
    shared = max(size for size in range(len(prompt) + 1) if whole.startswith(prompt[:size]))
    assert "".join(stream(name, groups, prompt_ids)) == whole[shared:]


@by_tokenizer
@given(groups=grouped_tokens())
def test_how_far_text_lags_depends_on_the_tokens_alone(name: str, groups: list[list[int]]) -> None:
    """A stream can be taken up elsewhere: what was certain after a token is certain after it."""
    pieces = stream(name, groups)
    seen = 0
    for count in range(1, len(groups) + 1):
        ids = flat(groups[:count])
        seen += len(pieces[count - 1])
        one_by_one = stream(name, [[token_id] for token_id in ids])
        assert len("".join(one_by_one[:-1])) == seen


@pytest.mark.parametrize("text", ["naïve café", "日本語のテキスト", "🙂👩‍🚀🏳️‍🌈", "a🙂b"])
def test_no_piece_splits_a_character(text: str) -> None:
    tokens = TOKENIZERS["byte level"].encode(text).ids
    pieces = stream("byte level", [[token_id] for token_id in tokens])
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(pieces)
    assert "".join(pieces) == text


def test_a_character_in_bytes_waits_for_its_last_byte() -> None:
    first, second = TOKENIZERS["byte level"].encode("é").ids
    assert stream("byte level", [[first], [second]]) == ["", "é", ""]


def test_an_unfinished_character_comes_at_the_end() -> None:
    first, _ = TOKENIZERS["byte level"].encode("é").ids
    assert stream("byte level", [[first]]) == ["", "\N{REPLACEMENT CHARACTER}"]


def test_special_tokens_have_no_text_and_added_ones_have_their_own() -> None:
    vocabulary = TOKENIZERS["llama 2"].get_vocab()
    end, tool = vocabulary["<|end|>"], vocabulary["<tool>"]
    assert "".join(stream("llama 2", [[end], [tool], [end]])) == "<tool>"


def test_a_byte_level_tokenizer_takes_the_fast_way() -> None:
    assert not isinstance(detokenizer_after((), VOCABULARIES["byte level"]), WindowDetokenizer)
    assert isinstance(detokenizer_after((), VOCABULARIES["llama 2"]), WindowDetokenizer)


class CountedVocabulary(Vocabulary):
    """Counts the tokens that it decodes."""

    num_decoded = 0

    def decode(self, token_ids: Sequence[int]) -> str:
        self.num_decoded += len(token_ids)
        return super().decode(token_ids)


@pytest.mark.parametrize("name", ["llama 2", "metaspace", "metaspace with byte fallback"])
@pytest.mark.parametrize("token", ["▁the", "▁", "▁▁", "<0xF0>", "<|end|>", "<unk>"])
def test_the_work_per_token_is_bounded(name: str, token: str) -> None:
    """After a long prompt and within a long stream of one token, be it without text of its own."""
    vocabulary = CountedVocabulary(TOKENIZERS[name])
    ids = TOKENIZERS[name].get_vocab()
    detokenizer = detokenizer_after([ids[token], ids["▁the"], ids["."]] * 20_000, vocabulary)
    assert vocabulary.num_decoded < 100
    for _ in range(2_000):
        detokenizer.append([ids[token]])
    detokenizer.append([ids["a"]])
    assert vocabulary.num_decoded < 20_000


def test_a_long_stream_keeps_only_its_end() -> None:
    detokenizer = detokenizer_after((), VOCABULARIES["llama 2"])
    assert isinstance(detokenizer, WindowDetokenizer)
    token = TOKENIZERS["llama 2"].get_vocab()["▁the"]
    for _ in range(1000):
        detokenizer.append([token])
    assert len(detokenizer._ids) < 10
