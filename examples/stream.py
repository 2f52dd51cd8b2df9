"""A completion, printed as it comes, and where its time went.

python examples/stream.py "class Queue:"
"""

import os
import sys

import lengthwise

ENDPOINT = os.environ.get("LENGTHWISE_ENDPOINT", "localhost:50051")


def main() -> None:
    prompt = sys.argv[1] if len(sys.argv) > 1 else "class Queue:"
    with lengthwise.Client(ENDPOINT) as client:
        # Leaving this loop early, by `break` or an error, cancels the request.
        for chunk in client.stream(prompt, max_tokens=48, temperature=0.7, seed=1):
            print(chunk.text, end="", flush=True)
            # The last chunk alone says how it went.
            if chunk.usage and chunk.timings:
                usage, timings = chunk.usage, chunk.timings
    print(f"\n{usage.prompt_tokens} tokens in, {usage.output_tokens} out", file=sys.stderr)
    print(f"first token after {timings.time_to_first_token_seconds:.3f} s", file=sys.stderr)
    print(f"each further {timings.time_per_output_token_seconds:.4f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
