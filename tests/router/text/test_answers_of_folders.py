"""What a router says for real folders, wherever a prompt ends and a stream is taken up again: the
text that transformers has for all tokens, less what it has for the prompt's."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
from checkpoint.tokenizer_folders import FILES, KINDS, write_folder
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from lengthwise_checkpoint.tokenizer import read_text_files
from lengthwise_router.text.answer_text import AnswerText
from lengthwise_router.text.vocabulary import Vocabulary

CLASSES = ("PreTrainedTokenizerFast", "LlamaTokenizer", "Qwen2Tokenizer")
CLEAN = "clean_up_tokenization_spaces"
FORCED = f"{CLEAN}_for_bpe_even_though_it_will_corrupt_output"
CLEANED: dict[str, dict[str, bool]] = {
    "not cleaned": {CLEAN: False},
    "cleaned": {CLEAN: True},
    "forced": {CLEAN: True, FORCED: True},
}
FOLDERS: dict[str, tuple[str, str, dict[str, bool]]] = {
    **{
        f"{kind} as {name}": (kind, name, {})
        for kind in KINDS
        for name in (CLASSES if kind in ("llama_2", "byte_level") else CLASSES[:1])
    },
    **{
        f"{kind}, {title}": (kind, CLASSES[0], config)
        for kind in ("unigram", "word_pieces", "words", "byte_level", "llama_2")
        for title, config in CLEANED.items()
    },
}
TEXT = st.lists(
    st.sampled_from(
        [*"thecadon' .\n12", " ' ", " 's", " n't", " !", "ï", "日", "🙂", "<|im_end|>", "the"]
    ),
    max_size=20,
).map("".join)


class Readings(NamedTuple):
    """Of one tokenizer: transformers' and a router's."""

    theirs: Any
    vocabulary: Vocabulary

    def __repr__(self) -> str:
        return str(self.theirs.name_or_path)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Readings]:
    made = {}
    for title, (kind, name, cleaned) in FOLDERS.items():
        folder: Path = tmp_path_factory.mktemp("tokenizers")
        config = FILES["names"]["tokenizer_config"] | cleaned
        write_folder(folder, KINDS[kind](), {"tokenizer_config": config}, tokenizer_class=name)
        theirs = AutoTokenizer.from_pretrained(folder)
        ours = read_text_files(folder)
        made[title] = Readings(theirs, Vocabulary(ours.tokenizer, cleans_up=ours.cleans_up))
    return made


@pytest.mark.parametrize("title", FOLDERS)
@settings(max_examples=min(40, settings().max_examples))
@given(text=TEXT, stray=st.lists(st.integers(0, 300), max_size=4), data=st.data())
def test_an_answer_is_transformers_text_of_all_tokens_less_the_prompts(
    folders: dict[str, Readings], title: str, text: str, stray: list[int], data: st.DataObject
) -> None:
    theirs, vocabulary = folders[title]
    ids = [*theirs(text).input_ids, *stray, *theirs(text, add_special_tokens=False).input_ids]
    border = data.draw(st.integers(0, len(ids)), "border")
    resumed = data.draw(st.integers(border, len(ids)), "resumed")
    prompt, begun = ids[:border], ids[border:resumed]
    before = theirs.decode(prompt, skip_special_tokens=True)
    whole = theirs.decode(ids, skip_special_tokens=True)
    first = AnswerText(vocabulary, prompt, [], 0)
    second = AnswerText(vocabulary, prompt, [], 0)
    second.resume(begun)
    given_first = "".join(first.append([token_id])[1] for token_id in begun)
    answer = given_first + second.append(ids[resumed:])[1] + second.finish()
    # All of it, unless it ends with bytes that are another character with those that follow.
    shared = max(size for size in range(len(before) + 1) if whole.startswith(before[:size]))
    assert answer == whole[shared:]
