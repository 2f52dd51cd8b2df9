"""A conversation: each turn sends all turns before, of which the server computes only what is new.

python examples/conversation.py "Write a stack." "And now a queue."
"""

import os
import sys

import lengthwise
from lengthwise import Message

ENDPOINT = os.environ.get("LENGTHWISE_ENDPOINT", "localhost:50051")


def main() -> None:
    turns = sys.argv[1:] or ["Write a stack.", "And now a queue."]
    messages = [Message("system", "Answer in Python.")]
    with lengthwise.Client(ENDPOINT) as client:
        for turn in turns:
            messages.append(Message("user", turn))
            answer = client.chat(
                messages,
                max_tokens=48,
                temperature=0,
                # The blocks of a conversation that goes on are worth keeping.
                conversation_returns=turn is not turns[-1],
            )
            messages.append(Message("assistant", answer.text))
            usage = answer.usage
            print(f"> {turn}\n{answer.text}")
            print(f"({usage.cached_prompt_tokens} of {usage.prompt_tokens} tokens were cached)\n")


if __name__ == "__main__":
    main()
