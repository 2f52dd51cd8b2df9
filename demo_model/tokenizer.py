"""The demo model's tokenizer: byte-level BPE whose words are those of Python source.

Invariant: decoding what was encoded gives back the very same text, whatever it was.
"""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

BEGIN, END = "<|begin|>", "<|end|>"
BEGIN_ID, END_ID = 0, 1
VOCABULARY_SIZE = 3072
# Identifiers keep their underscores; one space belongs to the word behind it; a longer run of
# spaces (indentation) and a run of line ends are words of their own. Line ends and indentation stay
# apart, so that a prompt ending in a new line is tokenised like the same text inside a file.
WORD = r" ?[\p{L}\p{M}_]+| ?\p{N}{1,3}| {2,}|\n+| ?[^\s\p{L}\p{M}\p{N}_]+|\s"


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[BEGIN, END],  # in the order of their ids
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A",
        pair=f"{BEGIN} $A {BEGIN} $B",
        special_tokens=[(BEGIN, BEGIN_ID)],
    )
    return tokenizer
