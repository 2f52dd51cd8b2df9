"""Prompts that wait to be computed, in order of urgency and by length.

Every call is O(log n) in the prompts held, and O(1) in those that left.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from lengthwise_policy.checks import require_at_least
from lengthwise_policy.kv.prefix_cache import BlockHash
from lengthwise_policy.length_class import LENGTH_CLASSES, LengthClass
from lengthwise_policy.types import RequestId

Urgency = tuple[float, float, int]
"""Smaller goes first; the last is the prompt's number, so that no two are equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillJob:
    """A prompt to compute."""

    request_id: RequestId
    num_tokens: int
    arrived_at: float
    deadline_at: float  # of the request: from then on `expired` reports it
    hashes: tuple[BlockHash, ...] = ()  # of the full blocks
    priority: int = 0  # higher goes first within its length class
    returning: bool = False  # the conversation will go on: its blocks are kept longer

    def __post_init__(self) -> None:
        require_at_least("num_tokens", self.num_tokens, 1)


@dataclass(slots=True, eq=False, kw_only=True)
class Prompt:
    """A job and how far it is."""

    job: PrefillJob
    number: int  # counts the jobs of this scheduler
    usable: Sequence[BlockHash]  # hashes of the blocks that may be shared: all but the last token's
    length: LengthClass
    num_computed: int  # before it begins: the tokens of the prefix that was cached when looked last
    num_cached: int = 0  # tokens that were not computed, known once it has begun
    block_ids: tuple[int, ...] = ()  # empty until the first chunk is scheduled
    served_seconds: float = 0.0  # predicted time of the batches it was in
    in_batch: bool = False
    released: bool = False  # only while in_batch: the blocks wait for the end of the batch

    @property
    def num_missing(self) -> int:
        return self.job.num_tokens - self.num_computed

    @property
    def has_begun(self) -> bool:
        return bool(self.block_ids)

    def waited(self, now: float) -> float:
        """Seconds since it arrived in which it was not computed."""
        return now - self.job.arrived_at - self.served_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLength:
    """What one length class still has to compute, as far as is known now."""

    requests: int
    tokens: int


class Backlog:
    """Counts the prompts with tokens to compute, those of the running batch included."""

    def __init__(self) -> None:
        self._requests = dict.fromkeys(LENGTH_CLASSES, 0)
        self._tokens = dict.fromkeys(LENGTH_CLASSES, 0)

    @property
    def requests(self) -> int:
        return sum(self._requests.values())

    def of(self, length: LengthClass) -> QueueLength:
        return QueueLength(requests=self._requests[length], tokens=self._tokens[length])

    def add(self, prompt: Prompt) -> None:
        self._requests[prompt.length] += 1
        self._tokens[prompt.length] += prompt.num_missing

    def remove(self, prompt: Prompt) -> None:
        """To be called before the prompt's class or progress changes, and followed by `add`."""
        self._requests[prompt.length] -= 1
        self._tokens[prompt.length] -= prompt.num_missing


@dataclass(slots=True)
class _Line:
    """A heap in which prompts that left stay until they surface or make up half of it."""

    heap: list[tuple[Urgency, int, Prompt]] = field(default_factory=list)
    waiting: dict[Prompt, int] = field(default_factory=dict)  # and the push that queued them
    pushes: int = 0

    def head(self) -> tuple[Urgency, int, Prompt] | None:
        while self.heap and not self._is_waiting(self.heap[0]):
            heappop(self.heap)
        return self.heap[0] if self.heap else None

    def push(self, urgency: Urgency, prompt: Prompt) -> None:
        self.pushes += 1
        self.waiting[prompt] = self.pushes
        heappush(self.heap, (urgency, self.pushes, prompt))

    def pop(self) -> Prompt:
        """Takes the head out, which must have been looked at."""
        prompt = heappop(self.heap)[2]
        del self.waiting[prompt]
        return prompt

    def discard(self, prompt: Prompt) -> None:
        del self.waiting[prompt]
        if len(self.heap) > 2 * len(self.waiting) + 64:
            self.heap = [entry for entry in self.heap if self._is_waiting(entry)]
            heapify(self.heap)

    def _is_waiting(self, entry: tuple[Urgency, int, Prompt]) -> bool:
        return self.waiting.get(entry[2]) == entry[1]


class PromptQueue:
    """Prompts of one kind, none of them in the running batch, in one line per length bucket."""

    def __init__(self, bucket_lengths: Sequence[int] = ()) -> None:
        """Bucket i holds up to `bucket_lengths[i]` missing tokens, the last one all others."""
        self._lengths = tuple(bucket_lengths)
        self._lines = [_Line() for _ in range(len(self._lengths) + 1)]
        self._line_of: dict[Prompt, int] = {}
        self.num_tokens = 0
        """Tokens that these prompts miss."""

    def __len__(self) -> int:
        return len(self._line_of)

    def __iter__(self) -> Iterator[Prompt]:
        """In no useful order."""
        for line in self._lines:
            yield from line.waiting

    def __contains__(self, prompt: Prompt) -> bool:
        return prompt in self._line_of

    def push(self, urgency: Urgency, prompt: Prompt) -> None:
        self.num_tokens += prompt.num_missing
        bucket = self.bucket_of(prompt)
        self._line_of[prompt] = bucket
        self._lines[bucket].push(urgency, prompt)

    def head(self) -> Prompt | None:
        """The most urgent prompt of all buckets."""
        found = self._best(None)
        return None if found is None else self._lines[found].heap[0][2]

    def pop(self, bucket: int | None = None) -> Prompt | None:
        """Takes out the most urgent prompt.

        Where several have the highest priority, those of `bucket` go first.
        """
        found = self._best(bucket)
        if found is None:
            return None
        prompt = self._lines[found].pop()
        del self._line_of[prompt]
        self.num_tokens -= prompt.num_missing
        return prompt

    def discard(self, prompt: Prompt) -> None:
        self._lines[self._line_of.pop(prompt)].discard(prompt)
        self.num_tokens -= prompt.num_missing

    def bucket_of(self, prompt: Prompt) -> int:
        missing = prompt.num_missing
        for bucket, length in enumerate(self._lengths):
            if missing <= length:
                return bucket
        return len(self._lengths)

    def _best(self, preferred: int | None) -> int | None:
        """The bucket whose head is the most urgent."""
        best = None
        best_urgency: tuple[float, bool, Urgency] | None = None
        for bucket, line in enumerate(self._lines):
            head = line.head()
            if head is None:
                continue
            urgency = (head[0][0], bucket != preferred, head[0])
            if best_urgency is None or urgency < best_urgency:
                best, best_urgency = bucket, urgency
        return best
