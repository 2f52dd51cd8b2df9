"""A real chat model, SmolLM2-135M-Instruct as GGUF, says what `transformers` says of a folder with
the same weights, to the letter.

One forward pass of transformers over a prompt and its answer tells for each position which token
was the likeliest after all before it: if that is the answer's at every position, greedy decoding
says the same. That takes seconds where generating there takes a minute.
"""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from end_to_end.smollm2 import smollm2_file, smollm2_folder

import lengthwise
from lengthwise import Completion, Message
from lengthwise_local import LocalCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

NUM_TOKENS = 8
STORY = "The old lighthouse keeper climbed the stairs once more, and counted every step aloud. "
CODE = "def mean(values):\n    return sum(values) / len(values)\n\n\n"


def chat(*turns: str, system: str | None = None) -> list[Message]:
    """Turns of user and assistant, beginning with the user's."""
    roles = ("user", "assistant")
    head = [] if system is None else [Message("system", system)]
    return head + [Message(roles[index % 2], turn) for index, turn in enumerate(turns)]


# Each answer's tokens are likelier than any other by a factor of 1.01, far above what the order of
# float32 sums moves.
PROMPTS: dict[str, str | list[Message]] = {
    "one letter": "A",
    "a word": "Once upon",
    "a question": "What is the capital of France?",
    "a list": "Monday, Tuesday, Wednesday,",
    "digits": "1, 1, 2, 3, 5, 8, 13, 21,",
    "blanks": "  \n\n\tx  =  1\n",
    "special tokens": "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n",
    "code": CODE + "def median(values):\n",
    "json": '{"name": "Ada", "born": 1815, "known_for": [',
    "html": "<html>\n  <body>\n    <h1>Hello</h1>\n",
    "german": "Grüße aus Köln! Die Straße ist",
    "japanese": "東京は日本の",
    "arabic": "مرحبا بالعالم",
    "emoji": "I 💚 🐍 and 👩‍👩‍👧‍👦 because",
    "combining marks": "e\u0301a\u0308 n\u0303o\u0302",
    "a page": 4 * STORY + "Then",
    "many pages": 18 * STORY + "Then",
    "much code": 8 * CODE + "def",
    "chat": chat("What is the capital of France?"),
    "chat with a system": chat("Who are you?", system="You are a pirate. Answer briefly."),
    "chat of turns": chat("Hi!", "Hello! How can I help?", "Name three colours."),
    "chat about code": chat("Write a Python function that adds two numbers."),
    "chat of all scripts": chat("Translate to English: 你好,世界! Привет, мир! ¡Hola, mundo!"),
    "long chat": chat("Read this: " + 6 * STORY, "I have.", "Who climbed the stairs?"),
}


class Transformers:
    """The tokenizer and the model as transformers reads them."""

    def __init__(self) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder = smollm2_folder()
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.eos_token_id: int = self._tokenizer.eos_token_id
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def prompt_ids(self, prompt: str | list[Message]) -> list[int]:
        text = prompt
        if not isinstance(prompt, str):
            turns = [{"role": turn.role, "content": turn.content} for turn in prompt]
            text = self._tokenizer.apply_chat_template(
                turns, add_generation_prompt=True, tokenize=False
            )
        return list(self._tokenizer(text).input_ids)

    def text(self, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> str:
        """What the tokens add to the prompt's text."""
        before, all_of_it = (
            str(self._tokenizer.decode(ids, skip_special_tokens=True))
            for ids in (prompt_ids, [*prompt_ids, *token_ids])
        )
        assert all_of_it.startswith(before)
        return all_of_it.removeprefix(before)

    @torch.inference_mode()
    def logprobs(self, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> torch.Tensor:
        """(len(token_ids) + 1, vocabulary): after the prompt, and after each token."""
        ids = torch.tensor([[*prompt_ids, *token_ids]])
        logits = self._model(ids, logits_to_keep=len(token_ids) + 1).logits[0]
        return torch.log_softmax(logits, dim=-1)


@pytest.fixture(scope="module")
def transformers() -> Iterator[Transformers]:
    """In one thread: on a busy machine two took six seconds for twenty tokens, one takes 0.2."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Transformers()
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(model=smollm2_file(), settings=["dtype=float32"]) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def answers(cluster: LocalCluster) -> dict[str, Completion]:
    """Of all prompts at once."""
    return asyncio.run(_ask(cluster.endpoints, *PROMPTS))


async def _ask(endpoints: list[str], *names: str) -> dict[str, Completion]:
    async with lengthwise.AsyncClient(endpoints) as client, asyncio.TaskGroup() as group:
        tasks = {
            name: group.create_task(
                client.generate(PROMPTS[name], max_tokens=NUM_TOKENS, temperature=0, top_logprobs=2)
            )
            for name in names
        }
    return {name: task.result() for name, task in tasks.items()}


@pytest.mark.parametrize("name", PROMPTS)
def test_tokens_text_and_logprobs_are_those_of_transformers(
    transformers: Transformers, answers: dict[str, Completion], name: str
) -> None:
    answer = answers[name]
    prompt_ids = transformers.prompt_ids(PROMPTS[name])
    assert answer.usage.prompt_tokens == len(prompt_ids)
    logprobs = transformers.logprobs(prompt_ids, answer.token_ids)
    likeliest = logprobs.argmax(dim=-1).tolist()
    assert list(answer.token_ids) == likeliest[: len(answer.tokens)]
    assert answer.text == transformers.text(prompt_ids, answer.token_ids)
    stopped = answer.token_ids[-1] == transformers.eos_token_id
    assert answer.finish_reason == ("stop" if stopped else "length")
    assert stopped or len(answer.tokens) == NUM_TOKENS
    for token, row in zip(answer.tokens, logprobs, strict=False):
        assert token.logprobs is not None
        assert token.logprobs.logprob == pytest.approx(row[token.id].item(), abs=1e-3)
        top = [each.logprob for each in token.logprobs.top]
        assert top == pytest.approx(row.topk(2).values.tolist(), abs=1e-3)


def test_cached_blocks_change_nothing(
    cluster: LocalCluster, answers: dict[str, Completion]
) -> None:
    again = asyncio.run(_ask(cluster.endpoints, "many pages", "german", "chat of turns"))
    for name, answer in again.items():
        assert (answer.token_ids, answer.text) == (answers[name].token_ids, answers[name].text)
    assert sum(answer.usage.cached_prompt_tokens for answer in again.values()) >= 16
