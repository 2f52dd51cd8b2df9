"""What a model writes → the items of a response, and the events that tell of them."""

import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from lengthwise_router.text.tools.answer_format import AnswerParser
from lengthwise_router.text.tools.parts import (
    CallArguments,
    CallsEnd,
    CallStart,
    Content,
    Part,
)

Event = dict[str, Any]
"""With its `type`, without its `sequence_number`."""

Logprobs = list[dict[str, Any]]


class ResponseOutput:
    """Of one answer, as its text comes."""

    def __init__(self, parser: AnswerParser, new_call_id: Callable[[], str]) -> None:
        self._parser = parser
        self._new_call_id = new_call_id
        self._items: list[_Item] = []
        self._open: list[_Item] = []
        self._logprobs: Logprobs = []  # of tokens whose text has not come

    @property
    def items(self) -> list[dict[str, Any]]:
        """All that events have told of."""
        return [item.told for item in self._items]

    @property
    def whole_items(self) -> list[dict[str, Any]]:
        """Without what was taken for calls."""
        void = [item for item in self._items if isinstance(item, _Call) and item.is_void]
        return [item.told for item in self._items if item not in void]

    @property
    def is_reasoning(self) -> bool:
        """Whether there is nothing else yet."""
        return len(self._items) == 1 and isinstance(self._items[0], _Thought)

    def append(self, text: str, logprobs: Logprobs) -> list[Event]:
        """After a further piece of the text."""
        self._logprobs += logprobs
        return self._events(self._parser.append(text))

    def finish(self, *, is_whole: bool) -> list[Event]:
        """No more text comes; unless `is_whole`, more was to come."""
        events = self._events(self._parser.finish())
        if not self._items:
            events += self._opened(_Message(0))
        return events + self._close(is_whole=is_whole)

    def _events(self, parts: Sequence[Part]) -> list[Event]:
        return [event for part in parts for event in self._told(part)]

    def _told(self, part: Part) -> list[Event]:
        if isinstance(part, CallsEnd):
            return self._close(is_whole=not part.is_void)
        if isinstance(part, CallArguments):
            return self._more(part.text)
        if isinstance(part, CallStart):
            events = [] if isinstance(self._last_open, _Call) else self._close()
            call = _Call(len(self._items), part.name, self._new_call_id())
            return events + self._opened(call)
        kind: type[_Text] = _Message if isinstance(part, Content) else _Thought
        events = []
        if not isinstance(self._last_open, kind):
            events = self._close() + self._opened(kind(len(self._items)))
        return events + self._more(part.text)

    @property
    def _last_open(self) -> "_Item | None":
        return self._open[-1] if self._open else None

    def _opened(self, item: "_Item") -> list[Event]:
        self._items.append(item)
        self._open.append(item)
        return item.opened()

    def _more(self, text: str) -> list[Event]:
        item = self._open[-1]
        return [item.more(text, self._logprobs_of(item))] if text else []

    def _close(self, *, is_whole: bool = True) -> list[Event]:
        """What is open: a text, or calls that are whole together."""
        items, self._open = self._open, []
        events: list[Event] = []
        for item in items:
            item.status = "completed" if is_whole else "incomplete"
            events += item.closed(self._logprobs_of(item))
        return events

    def _logprobs_of(self, item: "_Item") -> Logprobs:
        """They are told with what is said."""
        if not isinstance(item, _Message):
            return []
        logprobs, self._logprobs = self._logprobs, []
        return logprobs


class _Item(ABC):
    """One, which grows until it is closed."""

    prefix: ClassVar[str]

    def __init__(self, index: int) -> None:
        self.id = f"{self.prefix}_{secrets.token_hex(12)}"
        self.status = "in_progress"
        self._index = index
        self._pieces: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    @property
    @abstractmethod
    def told(self) -> dict[str, Any]:
        """As it is now."""

    def opened(self) -> list[Event]:
        return [self._event("output_item.added", item=self.told)]

    def more(self, text: str, logprobs: Logprobs) -> Event:
        self._pieces.append(text)
        return self._delta(text, logprobs)

    @abstractmethod
    def _delta(self, text: str, logprobs: Logprobs) -> Event:
        """Tells of a further piece."""

    @abstractmethod
    def closed(self, logprobs: Logprobs) -> list[Event]:
        """No more comes."""

    def _event(self, kind: str, **fields: Any) -> Event:
        return {"type": f"response.{kind}", "output_index": self._index, **fields}


class _Text(_Item):
    """One of a single text."""

    kind: ClassVar[str]  # of its text
    fields: ClassVar[Mapping[str, Any]]  # beside its content

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self._logprobs: Logprobs = []

    @property
    def told(self) -> dict[str, Any]:
        content = [] if self.status == "in_progress" else [self._part(self.text)]
        return {"id": self.id, **self.fields, "status": self.status, "content": content}

    @abstractmethod
    def _part(self, text: str) -> dict[str, Any]:
        """Its content, of this text."""

    def opened(self) -> list[Event]:
        return [*super().opened(), self._of_part("content_part.added", part=self._part(""))]

    def _delta(self, text: str, logprobs: Logprobs) -> Event:
        self._logprobs += logprobs
        return self._of_part(f"{self.kind}.delta", delta=text, **self._with(logprobs))

    def closed(self, logprobs: Logprobs) -> list[Event]:
        self._logprobs += logprobs
        text, all_of_them = self.text, self._with(self._logprobs)
        return [
            self._of_part(f"{self.kind}.done", text=text, **all_of_them),
            self._of_part("content_part.done", part=self._part(text)),
            self._event("output_item.done", item=self.told),
        ]

    def _with(self, logprobs: Logprobs) -> dict[str, Any]:
        """Further fields of an event of text."""
        return {}

    def _of_part(self, kind: str, **fields: Any) -> Event:
        return self._event(kind, item_id=self.id, content_index=0, **fields)


class _Message(_Text):
    """What is said to the user."""

    prefix = "msg"
    kind = "output_text"
    fields: ClassVar = {"type": "message", "role": "assistant"}

    def _part(self, text: str) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": self._logprobs}

    def _with(self, logprobs: Logprobs) -> dict[str, Any]:
        return {"logprobs": logprobs}


class _Thought(_Text):
    """What was thought before."""

    prefix = "rs"
    kind = "reasoning_text"
    fields: ClassVar = {"type": "reasoning", "summary": []}

    def _part(self, text: str) -> dict[str, Any]:
        return {"type": "reasoning_text", "text": text}


class _Call(_Item):
    """Of a function."""

    prefix = "fc"

    def __init__(self, index: int, name: str, call_id: str) -> None:
        super().__init__(index)
        self._name = name
        self._call_id = call_id

    @property
    def is_void(self) -> bool:
        """Whether it turned out to be none: calls that are cut off are."""
        return self.status == "incomplete"

    @property
    def told(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "function_call",
            "status": self.status,
            "call_id": self._call_id,
            "name": self._name,
            "arguments": self.text,
        }

    def _delta(self, text: str, logprobs: Logprobs) -> Event:
        return self._event("function_call_arguments.delta", item_id=self.id, delta=text)

    def closed(self, logprobs: Logprobs) -> list[Event]:
        return [
            self._event(
                "function_call_arguments.done",
                item_id=self.id,
                name=self._name,
                arguments=self.text,
            ),
            self._event("output_item.done", item=self.told),
        ]
