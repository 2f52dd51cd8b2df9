"""The page in Chromium, on a whole cluster."""

import json
import re
from collections.abc import Iterator

import pytest
from end_to_end.browser import SECONDS, Page, chromium, lightness
from harness.waiting import wait_for
from selenium.webdriver import Chrome
from selenium.webdriver.common.keys import Keys

import lengthwise
from lengthwise_engine.toy.checkpoint import write_toy_checkpoint
from lengthwise_local import LocalCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

TEMPLATE = "{% for m in messages %}<|user|>{{ m.content }}{% endfor %}<|assistant|>"
HOSTILE = "<img src=x onerror=\"document.title='run'\">"


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as chrome:
        yield chrome


@pytest.fixture(scope="module")
def serving(chrome: Chrome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Its name is HTML; steps of 10 ms: an answer lasts long enough to be stopped."""
    folder = write_toy_checkpoint(
        tmp_path_factory.mktemp("models") / "toy",
        step_seconds=0.01,
        prefill_seconds_per_token=0.001,
    )
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    # Every request takes both workers.
    router = {"local_prefill": False}
    with LocalCluster(models={HOSTILE: folder}, http_port=0, configs={"router": router}) as cluster:
        yield cluster


@pytest.fixture
def page(chrome: Chrome, serving: LocalCluster) -> Iterator[Page]:
    page = Page(chrome, serving.routers[0].http_address)
    page.look_at()
    yield page
    assert page.complaints() == []
    assert page.chrome.title == "Lengthwise"


def test_a_conversation_is_that_of_the_sdk_and_comes_piece_by_piece(
    page: Page, serving: LocalCluster
) -> None:
    page.set(max_tokens=60, seed=7, temperature=0.9)
    said: list[lengthwise.Message] = []
    with lengthwise.Client(serving.endpoint) as client:
        for text in ("What is a deque?", "And\nwhat else?"):
            page.count_pieces()
            page.send(text)
            said.append(lengthwise.Message("user", text))
            expected = client.chat(said, max_tokens=60, seed=7, temperature=0.9).text
            assert page.answered() == expected
            assert page.run("return window.pieces") > 2
            said.append(lengthwise.Message("assistant", expected))
    assert page.texts("article.user .text") == ["What is a deque?", "And\nwhat else?"]
    assert page.texts("article.assistant .note")[-1].endswith("→ 60 tokens; it reached the most"
                                                              " tokens")  # fmt: skip


def test_the_last_request_is_a_timeline_with_where_and_why(
    page: Page, serving: LocalCluster
) -> None:
    page.set(max_tokens=20)
    page.send("once upon a time")
    page.answered()
    wait_for("it is explained", lambda: page.texts("#request dl"), SECONDS)
    phases = page.texts(".timeline li > span:first-child")
    assert phases == ["admission", "reserve", "queue", "prefill", "other", "transfer", "decode"]
    times = page.texts(".timeline .number")
    assert all(re.fullmatch(r"[\d,.]+ ms", time) for time in times)
    (facts,) = page.texts("#request dl")
    assert re.search(r"Placed atprefill-[0-9a-f]{6} → decode-[0-9a-f]{6}\w+", facts)
    assert "20 of at most 20 out" in facts
    assert "OK after" in facts
    request_id = page.texts("#request code")[0]
    with lengthwise.Client(serving.endpoint) as client:
        assert client.explain(request_id).output_tokens == 20


@pytest.mark.parametrize("how", ["Escape", "the button"])
def test_an_answer_that_is_stopped_costs_nothing_more(
    page: Page, serving: LocalCluster, how: str
) -> None:
    page.set(max_tokens=4000)
    page.send("once upon a time")
    wait_for("text comes", lambda: page.texts("article.assistant .text")[0], SECONDS)
    if how == "Escape":
        page.find("prompt").send_keys(Keys.ESCAPE)
    else:
        page.find("stop").click()
    assert page.answered()
    assert page.texts("article.assistant .note") == ["stopped"]
    wait_for("it is explained", lambda: page.texts("#request dl"), SECONDS)
    assert "CANCELLED after" in page.texts("#request dl")[0]
    with lengthwise.Client(serving.endpoint) as client:
        wait_for("none is held", lambda: not client.status().requests_in_flight, SECONDS)
    page.set(max_tokens=4)
    page.send("more")
    assert len(page.answered()) == 4


def test_a_new_conversation_begins_with_nothing(page: Page) -> None:
    page.set(max_tokens=4000)
    page.send("once upon a time")
    wait_for("text comes", lambda: page.texts("article.assistant .text")[0], SECONDS)
    page.find("new").click()
    wait_for("it is stopped", lambda: not page.is_answering, SECONDS)
    assert page.texts("article") == []
    page.set(max_tokens=4)
    page.watch_calls()
    page.send("hello")
    page.answered()
    ((_, body),) = page.calls("v1/chat/completions")
    assert body["messages"] == [{"role": "user", "content": "hello"}]


def test_a_model_without_a_chat_template_goes_on_with_the_text(page: Page) -> None:
    model = {"id": HOSTILE, "has_chat_template": False}
    page.answer_with("v1/models", json.dumps({"data": [model]}))
    page.set(key="sk-1", max_tokens=4)  # the models of this key
    placeholder = "return document.getElementById('prompt').placeholder"
    wait_for("it is told", lambda: "no chat template" in page.run(placeholder), SECONDS)
    page.watch_calls()
    page.send("once")
    first = page.answered()
    page.send("and then")
    page.answered()
    calls = page.calls("v1/completions")
    assert [body["prompt"] for _, body in calls] == ["once", f"once\n{first}\nand then"]
    assert {headers["authorization"] for headers, _ in calls} == {"Bearer sk-1"}
    page.set(key="")


def test_the_cluster_is_there_with_its_workers(page: Page, serving: LocalCluster) -> None:
    wait_for("workers are told", lambda: len(page.texts("#cluster tbody tr")) == 2, SECONDS)
    names = page.texts("#cluster tbody th")
    assert [name.partition("-")[0] for name in sorted(names)] == ["decode", "prefill"]
    assert page.texts("#cluster .state") == ["ready", "ready"]
    assert page.texts("#router") == ["ready"]
    wait_for(
        "rates are known", lambda: "".join(page.texts("#cluster td:last-child")).isdigit(), SECONDS
    )
    for blocks in page.texts("#cluster td:nth-last-child(2)"):
        assert re.fullmatch(r"[\d,]+/[\d,]+", blocks)


def test_nothing_that_is_text_becomes_html(page: Page) -> None:
    delta = {"content": HOSTILE, "reasoning_content": HOSTILE}
    event = {"choices": [{"delta": delta, "finish_reason": None}]}
    page.answer_with("v1/chat", f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n")
    page.send(HOSTILE)
    assert page.answered() == HOSTILE
    assert page.texts("article.assistant .thought") == [HOSTILE]
    assert page.texts("article .text") == [HOSTILE, HOSTILE]
    assert page.texts("#model option") == [HOSTILE]
    page.answer_with("v1/chat", json.dumps({"error": {"message": HOSTILE}}), 400)
    page.send("again")
    assert page.error() == HOSTILE
    assert page.run("return document.images.length") == 0


@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [
        (
            429,
            {"retry_after": "7"},
            "Too many requests at the moment. Try again in 7 s. The router says: why",
        ),
        (
            503,
            {"retry_after": "1"},
            "The router cannot serve it now. Try again in 1 s. The router says: why",
        ),
        (401, {}, "The router wants an API key that it knows: see Options. The router says: why"),
        (400, {}, "why"),
        (0, {}, "The router does not answer."),
    ],
)
def test_a_refusal_is_told_in_words_and_the_message_is_not_lost(
    page: Page, status: int, headers: dict[str, str], words: str
) -> None:
    page.answer_with("v1/chat", '{"error": {"message": "why"}}', status, **headers)
    page.send("once upon a time")
    assert page.error().startswith(words)
    assert page.find("prompt").get_property("value") == "once upon a time"
    assert page.texts("article") == []
    has_the_key = page.find("key").is_displayed()
    assert has_the_key == (status == 401)


def test_a_key_that_may_not_see_the_cluster_is_told_so_once(page: Page) -> None:
    page.answer_with("status", '{"error": {"message": "why"}}', 403)
    page.watch_calls()
    page.set(key="sk-1")
    told = ["The router permits you less than that. The router says: why"]
    wait_for("it is told", lambda: page.texts("#cluster p") == told, SECONDS)
    asked = len(page.calls("status"))
    page.run("window.hasPassed = false; setTimeout(() => { window.hasPassed = true }, 2500)")
    wait_for("more than a look's time", lambda: page.run("return window.hasPassed"), SECONDS)
    assert len(page.calls("status")) == asked
    page.set(key="")


def test_a_refusal_of_the_router_itself_names_the_field(page: Page) -> None:
    page.set(max_tokens=100_000)
    page.send("hello")
    assert "4096" in page.error()


def test_an_option_out_of_its_range_is_not_sent(page: Page) -> None:
    page.set(temperature=-1)
    page.watch_calls()
    page.send("hello")
    assert page.find("options").is_displayed()
    assert page.run("return document.activeElement.name") == "temperature"
    assert page.calls("v1/chat/completions") == []


def test_an_answer_that_breaks_off_is_kept_and_said_to_be_unfinished(page: Page) -> None:
    event = {"choices": [{"delta": {"content": "once"}, "finish_reason": None}]}
    page.answer_with("v1/chat", f"data: {json.dumps(event)}\n\n")
    page.send("hello")
    assert "broke off" in page.error()
    assert page.answered() == "once"
    assert page.texts("article.assistant .note") == ["not finished"]
    page.answer_with("v1/chat", ": still here\n\n", x_request_id="of-none")
    page.send("more")
    wait_for("it is over", lambda: page.find("prompt").get_property("value") == "more", SECONDS)
    assert len(page.texts("article")) == 2


def test_it_fits_a_phone_and_a_desktop_in_light_and_dark(page: Page) -> None:
    page.set(max_tokens=50)
    page.send("a" * 400)
    page.answered()
    wait_for("it is explained", lambda: page.texts("#request dl"), SECONDS)
    wait_for("workers are told", lambda: page.texts("#cluster tbody tr"), SECONDS)
    page.run("document.getElementById('settings').open = true")
    grounds = []
    for scheme in ("light", "dark"):
        for width, height in ((1400, 900), (800, 900), (360, 740)):
            page.look_at(width=width, height=height, scheme=scheme)
            assert page.run("return document.documentElement.scrollWidth") <= width
            assert page.find("send").is_displayed()
        ground, text = page.run(
            "const { backgroundColor, color } = getComputedStyle(document.body);"
            "return [backgroundColor, color]"
        )
        grounds.append(lightness(ground))
        assert abs(lightness(ground) - lightness(text)) > 150
    assert grounds[0] > 200 > 60 > grounds[1]


def test_it_asks_for_the_status_only_while_it_can_be_seen(page: Page) -> None:
    page.watch_calls()
    wait_for("it asks", lambda: page.calls("status"), SECONDS)
    wait_for("it is answered", lambda: page.texts("#cluster tbody tr"), SECONDS)
    # Headless windows cannot be hidden.
    page.run(
        "Object.defineProperty(document, 'hidden', { value: true, configurable: true });"
        "document.dispatchEvent(new Event('visibilitychange')); window.calls = []"
    )
    page.run("window.hasPassed = false; setTimeout(() => { window.hasPassed = true }, 2500)")
    wait_for("more than a look's time", lambda: page.run("return window.hasPassed"), SECONDS)
    assert page.calls("status") == []
    page.run("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    wait_for("it asks again", lambda: page.calls("status"), SECONDS)
