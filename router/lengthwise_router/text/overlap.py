"""Texts that come in pieces: what at the end of one may go on as something that is looked for."""


def overlap(text: str, marker: str) -> int:
    """How many characters at the end of a text may be the beginning of a marker, less than all."""
    size = min(len(marker) - 1, len(text))
    while not text.endswith(marker[:size]):
        size -= 1
    return size
