"""Log probabilities as OpenAI tells them: tokens by their text and bytes."""

from collections.abc import Callable
from typing import Any

from lengthwise_router.frontends.http.answers import Answer

TokenTexts = Callable[[int], bytes]
"""What a token id stands for."""


def chat_logprobs(answer: Answer, texts: TokenTexts) -> dict[str, Any]:
    """Of the tokens of an answer, or of a piece of one."""
    content = [
        {
            **_entry(texts(token_id), found.logprob),
            "top_logprobs": [_entry(texts(top.token_id), top.logprob) for top in found.top],
        }
        for token_id, found in zip(answer.token_ids, answer.logprobs or (), strict=True)
    ]
    return {"content": content, "refusal": None}


def _entry(token: bytes, logprob: float) -> dict[str, Any]:
    return {"token": _shown(token), "logprob": logprob, "bytes": list(token)}


class TextLogprobs:
    """Of one choice of a text completion, piece by piece: offsets count from its start."""

    def __init__(self, texts: TokenTexts) -> None:
        self._texts = texts
        self._offset = 0

    def of(self, answer: Answer) -> dict[str, Any]:
        """Of its next tokens. Of alternatives with the same text the likeliest is told."""
        tokens, offsets, likeliest = [], [], []
        logprobs = list(answer.logprobs or ())
        for token_id, found in zip(answer.token_ids, logprobs, strict=True):
            token = _shown(self._texts(token_id))
            tokens.append(token)
            offsets.append(self._offset)
            self._offset += len(token)
            top = {_shown(self._texts(one.token_id)): one.logprob for one in reversed(found.top)}
            likeliest.append(dict(reversed(top.items())))
        return {
            "tokens": tokens,
            "token_logprobs": [found.logprob for found in logprobs],
            "top_logprobs": likeliest,
            "text_offset": offsets,
        }


def _shown(token: bytes) -> str:
    return token.decode(errors="replace")
