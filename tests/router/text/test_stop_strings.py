"""Stop strings end the text where they should, wherever the pieces of text end."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from lengthwise_router.text.stop_strings import StopStrings

_texts = st.text(alphabet="abc", max_size=30)
_stops = st.lists(st.text(alphabet="abc", min_size=1, max_size=4), min_size=1, max_size=4)


def _cut(text: str, strings: list[str]) -> tuple[str, bool]:
    """The definition: read on character by character until some string is complete."""
    for end in range(len(text) + 1):
        starts = [end - len(s) for s in strings if text[:end].endswith(s)]
        if starts:
            return text[: min(starts)], True
    return text, False


def _stream(pieces: list[str], strings: list[str]) -> tuple[str, bool]:
    stop = StopStrings(strings)
    given = []
    for piece in pieces:
        given.append(stop.append(piece))
        if stop.hit:
            return "".join(given), True
    given.append(stop.finish())
    return "".join(given), False


@given(text=_texts, strings=_stops, cuts=st.sets(st.integers(0, 30)))
def test_pieces_make_no_difference(text: str, strings: list[str], cuts: set[int]) -> None:
    bounds = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    pieces = [text[start:end] for start, end in pairwise(bounds)]
    assert _stream(pieces, strings) == _cut(text, strings)


@given(text=_texts, strings=_stops, num_free=st.integers(0, 30))
def test_strings_that_complete_too_early_do_not_count(
    text: str, strings: list[str], num_free: int
) -> None:
    """As if each character were a token, and `num_free` the request's min_tokens."""
    stop, given = StopStrings(strings), ""
    for position, character in enumerate(text):
        given += stop.append(character, may_end=position >= num_free)
        if stop.hit:
            break
    ends = [
        (end, end - len(string))
        for string in strings
        for end in range(num_free + 1, len(text) + 1)
        if text[:end].endswith(string)
    ]
    # What was given before the string began can no longer be taken back.
    assert given + stop.finish() == (text[: min(ends)[1]] if ends else text)
    assert stop.hit is bool(ends)


@given(text=_texts, strings=_stops)
def test_nothing_of_a_stop_string_is_ever_given(text: str, strings: list[str]) -> None:
    stop = StopStrings(strings)
    given = ""
    for character in text:
        given += stop.append(character)
        if stop.hit:
            break
    assert not any(string in given for string in strings)


def test_only_what_may_begin_a_stop_string_is_held_back() -> None:
    stop = StopStrings(["<end>"])
    assert stop.append("text <e") == "text "
    assert stop.append("lse") == "<else"
    assert stop.append("<en") == ""
    assert stop.finish() == "<en"


def test_the_string_that_completes_first_ends_the_text() -> None:
    stop = StopStrings(["abcd", "bc"])
    assert stop.append("xabcd") == "xa"
    assert stop.hit
