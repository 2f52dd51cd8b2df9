"""What the `openai` package gets from a router, whole and in events."""

import json
from typing import Any

import openai
import pytest
from router.http.raw import ServedHttp, answer
from router.stub_workers import MODEL

from lengthwise_router.frontends.http import answers
from lengthwise_wire.v1 import inference_pb2

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROMPT = "once upon a time"
MESSAGES: Any = [{"role": "developer", "content": "be"}, {"role": "user", "content": "hello"}]
RENDERED = "<system>be<user>hello<assistant>"


async def test_a_completion_has_text_usage_and_the_requests_id(shared: ServedHttp) -> None:
    response = await shared.openai.completions.with_raw_response.create(
        model=MODEL, prompt=PROMPT, max_tokens=5, extra_headers={"x-request-id": "mine"}
    )
    completion = response.parse()
    assert completion.choices[0].text == answer(PROMPT, 5)
    assert completion.choices[0].finish_reason == "length"
    assert completion.id == "cmpl-mine"
    assert response.headers["x-request-id"] == "mine"
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (16, 5)
    request = inference_pb2.ExplainRequest(request_id="mine")
    explanation = await shared.deployment.stub.Explain(request)
    assert explanation.output_tokens == 5


async def test_a_completion_without_max_tokens_has_sixteen(shared: ServedHttp) -> None:
    completion = await shared.openai.completions.create(model=MODEL, prompt=PROMPT)
    assert completion.choices[0].text == answer(PROMPT, 16)


async def test_a_chat_is_rendered_by_the_template(shared: ServedHttp) -> None:
    completion = await shared.openai.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_completion_tokens=6
    )
    message = completion.choices[0].message
    assert (message.role, message.content) == ("assistant", answer(RENDERED, 6))
    assert completion.usage is not None
    assert completion.usage.prompt_tokens == len(RENDERED)


async def test_parts_of_a_content_are_joined(shared: ServedHttp) -> None:
    parts: Any = [{"type": "text", "text": "he"}, {"type": "text", "text": "llo"}]
    messages: Any = [MESSAGES[0], {"role": "user", "content": parts}]
    completion = await shared.openai.chat.completions.create(
        model=MODEL, messages=messages, max_tokens=6
    )
    assert completion.choices[0].message.content == answer(RENDERED, 6)


async def test_a_stream_of_chat_has_a_role_text_a_reason_and_usage(shared: ServedHttp) -> None:
    options: Any = {"include_usage": True, "continuous_usage_stats": True}  # as guidellm sends them
    stream = await shared.openai.chat.completions.create(
        model=MODEL,
        messages=MESSAGES,
        max_tokens=9,
        stream=True,
        stream_options=options,
    )
    chunks = [chunk async for chunk in stream]
    *pieces, end = chunks
    assert pieces[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in pieces)
    assert text == answer(RENDERED, 9)
    reasons = [chunk.choices[0].finish_reason for chunk in pieces]
    assert reasons == [None] * (len(pieces) - 1) + ["length"]
    assert all(chunk.usage is None for chunk in pieces)
    assert not end.choices
    assert end.usage is not None
    assert end.usage.completion_tokens == 9
    assert len({chunk.id for chunk in chunks}) == 1


async def test_a_stream_of_text_equals_the_whole(shared: ServedHttp) -> None:
    stream = await shared.openai.completions.create(
        model=MODEL, prompt=PROMPT, max_tokens=9, stream=True
    )
    choices = [chunk.choices[0] async for chunk in stream]
    assert "".join(choice.text for choice in choices) == answer(PROMPT, 9)
    assert choices[-1].finish_reason == "length"


async def test_a_stream_ends_with_done(shared: ServedHttp) -> None:
    response = await shared.complete(stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = response.text.removesuffix("\n\n").split("\n\n")
    assert events[-1] == "data: [DONE]"
    assert all(json.loads(event.removeprefix("data: ")) for event in events[:-1])


async def test_each_prompt_has_n_choices_and_counts_once(shared: ServedHttp) -> None:
    completion = await shared.openai.completions.create(
        model=MODEL, prompt=["abc", "defg"], max_tokens=3, n=2, seed=-1, echo=True
    )
    texts = [choice.text for choice in completion.choices]
    expected = [prompt + answer(prompt, 3) for prompt in ("abc", "defg")]
    assert texts == [expected[0], expected[0], expected[1], expected[1]]
    assert [choice.index for choice in completion.choices] == [0, 1, 2, 3]
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (7, 12)
    seeds = [request.sampling.seed for request in shared.deployment.decode[0].reserves[-4:]]
    assert sorted(seeds) == [0, 0, 2**64 - 1, 2**64 - 1]


async def test_choices_of_a_stream_are_told_apart_by_their_index(shared: ServedHttp) -> None:
    stream = await shared.openai.completions.create(
        model=MODEL, prompt=[[97, 98], [99]], max_tokens=8, n=2, stream=True, echo=True
    )
    texts = dict.fromkeys(range(4), "")
    async for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    first, second = "ab" + answer("ab", 8), "c" + answer("c", 8)
    assert texts == {0: first, 1: first, 2: second, 3: second}


async def test_logprobs_of_a_chat_name_tokens_and_their_bytes(shared: ServedHttp) -> None:
    completion = await shared.openai.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=5, logprobs=True, top_logprobs=2
    )
    choice = completion.choices[0]
    assert choice.logprobs is not None
    content = choice.logprobs.content or []
    assert "".join(entry.token for entry in content) == choice.message.content
    assert bytes(b for entry in content for b in entry.bytes or []).decode() == answer(RENDERED, 5)
    assert all(len(entry.top_logprobs) == 2 for entry in content)
    assert content[0].logprob == pytest.approx(-content[0].bytes[0] / 100)  # type: ignore[index]


async def test_log_probabilities_that_are_collected_are_bounded(
    shared: ServedHttp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "MAX_COLLECTED_LOGPROBS", 30)
    monkeypatch.setattr(answers, "INLINE_LOGPROBS", 20)
    fields: Any = {"model": MODEL, "prompt": PROMPT, "n": 2, "logprobs": 2}
    await shared.openai.completions.create(**fields, max_tokens=5)
    with pytest.raises(openai.BadRequestError, match="stream"):
        await shared.openai.completions.create(**fields, max_tokens=6)
    await shared.still_serves()
    stream = await shared.openai.completions.create(**fields, max_tokens=6, stream=True)
    assert [chunk async for chunk in stream]


@pytest.mark.parametrize("stream", [False, True])
async def test_logprobs_of_a_text_have_offsets(shared: ServedHttp, stream: bool) -> None:
    created: Any = await shared.openai.completions.create(
        model=MODEL, prompt=PROMPT, max_tokens=8, logprobs=1, stream=stream
    )
    whole = [one async for one in created] if stream else [created]
    found = [one.choices[0].logprobs for one in whole if one.choices[0].logprobs]
    tokens = [token for part in found for token in part.tokens]
    assert "".join(tokens) == answer(PROMPT, 8)
    assert [offset for part in found for offset in part.text_offset] == list(range(8))
    assert all(len(top) == 1 for part in found for top in part.top_logprobs)


async def test_a_stop_text_ends_the_answer(shared: ServedHttp) -> None:
    expected = answer(PROMPT, 12)
    completion = await shared.openai.completions.create(
        model=MODEL, prompt=PROMPT, max_tokens=12, stop=[expected[6:8], "nothing"]
    )
    assert completion.choices[0].text == expected[: expected.index(expected[6:8])]
    assert completion.choices[0].finish_reason == "stop"


async def test_our_own_fields_reach_the_workers(shared: ServedHttp) -> None:
    await shared.openai.completions.create(
        model=MODEL,
        prompt=PROMPT,
        max_tokens=4,
        temperature=0.5,
        logit_bias={"65": -100},
        extra_body={"top_k": 3, "min_tokens": 2, "ignore_eos": True, "stop_token_ids": [1]},
    )
    sampling = shared.deployment.decode[0].reserves[-1].sampling
    assert (sampling.temperature, sampling.top_k, sampling.min_tokens) == (0.5, 3, 2)
    assert dict(sampling.logit_bias) == {65: -100}
    assert list(shared.deployment.decode[0].reserves[-1].stop_token_ids) == [1]


async def test_models_are_listed_and_found(shared: ServedHttp) -> None:
    assert [model.id async for model in shared.openai.models.list()] == [MODEL]
    assert (await shared.openai.models.retrieve(MODEL)).id == MODEL
    with pytest.raises(openai.NotFoundError):
        await shared.openai.models.retrieve("other/model")


async def test_tokens_go_there_and_back(shared: ServedHttp) -> None:
    tokenized = (await shared.plain.post("/tokenize", json={"prompt": "héllo"})).json()
    assert tokenized == {"tokens": list("héllo".encode()), "count": 6, "max_model_len": 512}
    body = {"tokens": tokenized["tokens"], "model": MODEL}
    assert (await shared.plain.post("/detokenize", json=body)).json() == {"prompt": "héllo"}
    messages = (await shared.plain.post("/tokenize", json={"messages": MESSAGES})).json()
    assert bytes(messages["tokens"]).decode() == RENDERED


async def test_probes_are_answered_without_a_model(shared: ServedHttp) -> None:
    assert (await shared.plain.get("/health")).json() == {"status": "ok"}
    assert (await shared.plain.get("/ready")).status_code == 200
    assert (await shared.plain.get("/version")).json().keys() == {"version"}
    assert (await shared.plain.head("/health")).status_code == 200
