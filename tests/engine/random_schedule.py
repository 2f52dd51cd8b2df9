"""Requests computed as a deployment may: in random batches and chunks, over a prefix that another
request computed, the KV moved to another worker midway, dropped and computed again, or lost with
all else that its worker had.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from lengthwise_engine.kv.cache import KVCache
from lengthwise_engine.runner.base import ModelRunner, SampledToken, SequenceChunk
from lengthwise_engine.runner.sampler import SamplingParameters, SamplingState

BLOCK_SIZE = 16
BLOCKS_PER_REQUEST = 37
CROWD = 12
PREFIX_TOKENS = 2 * BLOCK_SIZE
NUM_BLOCKS = CROWD * BLOCKS_PER_REQUEST + PREFIX_TOKENS // BLOCK_SIZE
PREFIX_BLOCKS = range(CROWD * BLOCKS_PER_REQUEST, NUM_BLOCKS)

LENGTHS = (1, 2, 3, 5, 17, 31, 40, 64, 90, 180, 375, 505)
"""Of prompts: below, at and beyond where attention cuts its sums (192, 384, 512 keys)."""

Answer = list[SampledToken]


@dataclass(frozen=True)
class ScheduledRequest:
    prompt: tuple[int, ...]
    sampling: SamplingParameters
    num_tokens: int
    adapter: int | None = None


@dataclass(frozen=True)
class CachedRunner:
    """A worker as far as a schedule sees it; its cache has NUM_BLOCKS blocks."""

    runner: ModelRunner
    cache: KVCache


@dataclass
class _Running:
    request: ScheduledRequest
    place: int
    worker: int
    tokens: list[int]
    block_ids: list[int]
    computed: int = 0
    answer: Answer = field(default_factory=list)


def random_requests(count: int, vocab_size: int, seed: int) -> list[ScheduledRequest]:
    """A third begins with the same 32 tokens; half is sampled, with thresholds of all kinds."""
    chosen = random.Random(seed)
    prefix = tuple(chosen.randrange(vocab_size) for _ in range(PREFIX_TOKENS))
    requests = []
    for index in range(count):
        length = chosen.choice(LENGTHS)
        own = tuple(chosen.randrange(vocab_size) for _ in range(length))
        sampling = SamplingParameters(
            temperature=chosen.choice((0.0, 1.0)),
            seed=index,
            top_k=chosen.choice((0, 0, 20)),
            top_p=chosen.choice((1.0, 0.9)),
            min_p=chosen.choice((0.0, 0.02)),
            top_logprobs=chosen.choice((None, 3)),
        )
        prompt = prefix + own if chosen.random() < 1 / 3 else own
        requests.append(ScheduledRequest(prompt, sampling, chosen.randrange(1, 24)))
    return requests


def alone(worker: CachedRunner, request: ScheduledRequest) -> Answer:
    """The prompt at once, then one token a step, and nothing beside it."""
    running = _Running(request, 0, 0, list(request.prompt), _own_blocks(0))
    while len(running.answer) < request.num_tokens:
        _step(worker, [(running, len(running.tokens) - running.computed)])
    return running.answer


def in_crowds(
    workers: Sequence[CachedRunner], requests: Sequence[ScheduledRequest], seed: int
) -> list[Answer]:
    """Up to 12 at a time over all `workers`, in an order and in pieces that `seed` chooses."""
    chosen = random.Random(seed)
    beginnings = Counter(request.prompt[:PREFIX_TOKENS] for request in requests)
    shared = max(beginnings, key=lambda tokens: (len(tokens), beginnings[tokens]))
    for worker in workers:
        _compute_prefix(worker, shared, chosen)
    waiting, running = list(enumerate(requests)), dict[int, _Running]()
    answers: dict[int, Answer] = {}
    places = list(range(CROWD))
    while waiting or running:
        while waiting and places and chosen.random() < 0.6:
            index, request = waiting.pop(0)
            running[index] = _begin(request, places.pop(), chosen, shared, len(workers))
        if chosen.random() < 0.01:
            _kill(chosen.randrange(len(workers)), workers, list(running.values()), shared, chosen)
        for one in running.values():
            _disturb(one, workers, chosen)
        for number, worker in enumerate(workers):
            batch = [one for one in running.values() if one.worker == number]
            batch = [one for one in batch if chosen.random() < 0.8]
            chosen.shuffle(batch)
            _step(worker, [(one, _piece(one, chosen)) for one in batch])
        for index, one in list(running.items()):
            if len(one.answer) >= one.request.num_tokens:
                answers[index] = running.pop(index).answer
                places.append(one.place)
    return [answers[index] for index in range(len(requests))]


def _compute_prefix(worker: CachedRunner, tokens: tuple[int, ...], chosen: random.Random) -> None:
    """Into the last blocks, in two chunks."""
    cut = chosen.randrange(1, PREFIX_TOKENS)
    for start, end in ((0, cut), (cut, PREFIX_TOKENS)):
        chunk = SequenceChunk(
            token_ids=tokens[start:end], start=start, block_ids=PREFIX_BLOCKS, sampling=None
        )
        worker.runner.run([chunk])


def _begin(
    request: ScheduledRequest,
    place: int,
    chosen: random.Random,
    shared: tuple[int, ...],
    num_workers: int,
) -> _Running:
    worker = chosen.randrange(num_workers)
    one = _Running(request, place, worker, list(request.prompt), _own_blocks(place))
    has_prefix = len(request.prompt) > PREFIX_TOKENS and request.prompt[:PREFIX_TOKENS] == shared
    if has_prefix and request.adapter is None and chosen.random() < 0.7:
        one.block_ids[: len(PREFIX_BLOCKS)] = PREFIX_BLOCKS
        one.computed = PREFIX_TOKENS
    return one


def _disturb(one: _Running, workers: Sequence[CachedRunner], chosen: random.Random) -> None:
    """Sometimes its KV moves to another worker, or is lost."""
    fate = chosen.random()
    if fate < 0.05:
        to = chosen.randrange(len(workers))
        blocks = one.block_ids
        workers[to].cache.tensor[:, blocks] = workers[one.worker].cache.tensor[:, blocks].clone()
        one.worker = to
    elif fate < 0.08:
        _drop(one, chosen.randrange(len(workers)))


def _kill(
    number: int,
    workers: Sequence[CachedRunner],
    running: Sequence[_Running],
    shared: tuple[int, ...],
    chosen: random.Random,
) -> None:
    """A worker's KV is lost; it begins anew, and its requests where `chosen` says."""
    tensor = workers[number].cache.tensor
    tensor.fill_(float("nan") if tensor.is_floating_point() else -1)  # whose scales are none
    _compute_prefix(workers[number], shared, chosen)
    for one in running:
        if one.worker == number:
            _drop(one, chosen.randrange(len(workers)))


def _drop(one: _Running, worker: int) -> None:
    """To be computed again there, but for the tokens that it has."""
    one.computed, one.worker, one.block_ids = 0, worker, _own_blocks(one.place)


def _own_blocks(place: int) -> list[int]:
    first = place * BLOCKS_PER_REQUEST
    return list(range(first, first + BLOCKS_PER_REQUEST))


def _piece(one: _Running, chosen: random.Random) -> int:
    left = len(one.tokens) - one.computed
    return left if chosen.random() < 0.4 else chosen.randrange(1, left + 1)


def _step(worker: CachedRunner, batch: Sequence[tuple[_Running, int]]) -> None:
    chunks = []
    for one, count in batch:
        end = one.computed + count
        state = SamplingState(
            sampling=one.request.sampling,
            token_ids=one.tokens,
            num_prompt_tokens=len(one.request.prompt),
        )
        is_last = end == len(one.tokens)
        chunk = SequenceChunk(
            token_ids=one.tokens[one.computed : end],
            start=one.computed,
            block_ids=one.block_ids,
            sampling=state if is_last else None,
            adapter=one.request.adapter,
        )
        chunks.append(chunk)
    for (one, count), token in zip(batch, worker.runner.run(chunks), strict=True):
        one.computed += count
        if token is not None:
            one.tokens.append(token.token_id)
            one.answer.append(token)
