"""A function that the model may call: its result goes back, and the model answers with it.

python examples/tools.py MODEL "How warm is it in Rome?"

The model's chat template has to take tools, as those of Qwen, Llama 3, Mistral and Hermes do.
"""

import json
import os
import sys
from typing import Any

import lengthwise
from lengthwise import Message

ENDPOINT = os.environ.get("LENGTHWISE_ENDPOINT", "localhost:50051")

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city now.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 40}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def get_weather(city: str) -> dict[str, Any]:
    return {"city": city, "degrees": 21}


def main() -> None:
    model, question = [*sys.argv[1:], None, None][:2]
    messages = [Message("user", question or "How warm is it in Rome?")]
    with lengthwise.Client(ENDPOINT, model=model) as client:
        answer = client.chat(
            messages, tools=[WEATHER], tool_choice="get_weather", max_tokens=256, temperature=0
        )
        messages.append(answer.message)
        for call in answer.tool_calls:
            print(f"{call.name}({call.arguments})")
            result = get_weather(**json.loads(call.arguments))
            messages.append(Message("tool", json.dumps(result), tool_call_id=call.id))
        final = client.chat(messages, tools=[WEATHER], tool_choice="none", max_tokens=64)
        print(final.content)


if __name__ == "__main__":
    main()
