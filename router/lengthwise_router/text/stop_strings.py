"""Ends text before a stop string, wherever token boundaries lie.

Of several stop strings the one whose last character comes first ends the text, so the result does
not depend on how the text arrives. Text that may turn out to begin a stop string is held back until
that is decided.
"""

from collections.abc import Sequence


class StopStrings:
    """The stop strings of one request, and the text held back for them."""

    __slots__ = ("_held", "_prefixes", "_strings", "hit")

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = tuple(strings)
        self._prefixes = {string[:size] for string in strings for size in range(1, len(string))}
        self._held = ""
        self.hit = False

    def append(self, text: str, *, may_end: bool = True) -> str:
        """Takes the next piece of text, and gives the part that certainly precedes any stop string.

        Sets `hit` when a stop string has completed; nothing may be appended afterwards. Strings
        that complete in a piece that may not end the text do not count.
        """
        num_held, text = len(self._held), self._held + text
        found = [
            (start + len(string), start)
            for string in self._strings
            # One that lies in what was held completed in a piece that might not end the text.
            if may_end and (start := text.find(string, max(num_held + 1 - len(string), 0))) >= 0
        ]
        if found:
            self.hit = True
            self._held = ""
            return text[: min(found)[1]]
        certain = len(text) - self._longest_prefix_at_end(text)
        self._held = text[certain:]
        return text[:certain]

    def finish(self) -> str:
        """The text held back: no stop string will complete it."""
        held, self._held = self._held, ""
        return held

    def _longest_prefix_at_end(self, text: str) -> int:
        longest = max(map(len, self._strings)) - 1
        for size in range(min(longest, len(text)), 0, -1):
            if text[-size:] in self._prefixes:
                return size
        return 0
