"""Where a request was sent, why, and where its time went.

python examples/explanation.py
"""

import os

import lengthwise

ENDPOINT = os.environ.get("LENGTHWISE_ENDPOINT", "localhost:50051")


def main() -> None:
    with lengthwise.Client(ENDPOINT) as client:
        completion = client.generate("import os\n" * 50, max_tokens=8, temperature=0)
        explanation = client.explain(completion.request_id)
        print(f"{explanation.prompt_tokens} tokens, {explanation.length_class}")
        print(f"admitted: {explanation.admission_reason}")
        for attempt in explanation.attempts:
            print(f"prefill on {attempt.prefill_worker or 'the decode worker'}")
            print(f"decode on {attempt.decode_worker}")
            print(f"because: {attempt.placement_reason}")
            if attempt.chosen:
                predicted = attempt.chosen.time_to_first_token_seconds
                measured = completion.timings.time_to_first_token_seconds
                print(f"first token after {measured:.3f} s, predicted {predicted:.3f} s")
            print(attempt.failure or "it succeeded")


if __name__ == "__main__":
    main()
