"""The same conversation by OpenAI's API, which programs that exist already speak.

python examples/openai_chat.py "Write a stack."
"""

import os
import sys

from openai import OpenAI

URL = os.environ.get("LENGTHWISE_URL", "http://127.0.0.1:8000/v1")


def main() -> None:
    question = sys.argv[1] if len(sys.argv) > 1 else "Write a stack."
    # Routers ask for no key; the package insists on one.
    with OpenAI(base_url=URL, api_key="none") as client:
        model = client.models.list().data[0].id
        stream = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": question}],
            max_tokens=48,
            stream=True,
        )
        for chunk in stream:
            print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()


if __name__ == "__main__":
    main()
