"""Texts as pieces of tokens, which a model is asked to predict."""

from collections.abc import Sequence


def cut(documents: Sequence[Sequence[int]], length: int, most: int) -> list[Sequence[int]]:
    """Pieces of `length` tokens, the last of a document shorter; of two tokens or more, since the
    first of each is given. Where all of them have more than `most` tokens, as many as have that,
    evenly spread over the documents.
    """
    pieces = [
        document[at : at + length]
        for document in documents
        for at in range(0, len(document), length)
        if len(document) - at > 1
    ]
    count = min(len(pieces), max(1, most // length))
    return [pieces[index * len(pieces) // count] for index in range(count)]
