"""LangChain's and LlamaIndex's adapters of OpenAI's API, unmodified, on a whole cluster: they say
what the `openai` package says. Skipped where they are not installed (docs/http.md)."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel, Field

from lengthwise_engine.toy.checkpoint import write_toy_checkpoint
from lengthwise_local import LocalCluster

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

MODEL = "toy"
ASKED = "How warm?"
TEMPLATE = (
    "{% for t in tools or [] %}{{ t.function.name }};{% endfor %}{# <tool_call> #}"
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}<|assistant|>"
)


class Weather(BaseModel):
    """How the weather is."""

    city: str = Field(max_length=6)
    days: int = Field(ge=0, le=9)


@pytest.fixture(scope="session")
def langchain_openai() -> Any:
    return pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")


@pytest.fixture(scope="session")
def openai_like() -> Any:
    reason = "llama-index-llms-openai-like is not installed"
    return pytest.importorskip("llama_index.llms.openai_like", reason=reason)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `/v1`."""
    folder = write_toy_checkpoint(tmp_path_factory.mktemp("model") / MODEL, eos_one_in=50)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    with LocalCluster(model=folder, http_port=0) as cluster:
        yield f"http://{cluster.routers[0].http_address}/v1"


@pytest.fixture(scope="module")
def chat_text(base: str) -> str:
    """As the `openai` package has it."""
    with openai.OpenAI(base_url=base, api_key="none", max_retries=0, timeout=30) as client:
        answer = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": ASKED}], max_tokens=12, seed=7
        )
    return answer.choices[0].message.content or ""


@pytest.fixture
async def clients() -> AsyncIterator[tuple[httpx.Client, httpx.AsyncClient]]:
    """Closed in the end, which the adapters' own are not."""
    with httpx.Client(timeout=30) as plain:
        async with httpx.AsyncClient(timeout=30) as asynchronous:
            yield plain, asynchronous


@pytest.fixture
def langchain(
    langchain_openai: Any, base: str, clients: tuple[httpx.Client, httpx.AsyncClient]
) -> Any:
    """`langchain(NAME, **options)`: one of its models."""

    def make(name: str = "ChatOpenAI", **options: Any) -> Any:
        usual: dict[str, Any] = {
            "base_url": base,
            "api_key": "none",
            "model": MODEL,
            "max_retries": 0,
        }
        usual |= {"http_client": clients[0], "http_async_client": clients[1]}
        return getattr(langchain_openai, name)(**{**usual, "max_tokens": 12, "seed": 7, **options})

    return make


@pytest.fixture
def llama_index(
    openai_like: Any, base: str, clients: tuple[httpx.Client, httpx.AsyncClient]
) -> Any:
    """`llama_index(**options)`: its model."""

    def make(*, seed: int = 7, **options: Any) -> Any:
        usual: dict[str, Any] = {
            "api_base": base,
            "api_key": "none",
            "model": MODEL,
            "max_retries": 0,
        }
        usual |= {"http_client": clients[0], "async_http_client": clients[1]}
        usual |= {"max_tokens": 12, "is_chat_model": True, "temperature": 1.0}
        return openai_like.OpenAILike(**{**usual, "additional_kwargs": {"seed": seed}, **options})

    return make


async def test_langchain_chats(langchain: Any, chat_text: str) -> None:
    model = langchain()
    answer = model.invoke(ASKED)
    assert answer.content == chat_text
    assert answer.usage_metadata["output_tokens"] == 12
    chunks = list(model.stream(ASKED, stream_usage=True))
    assert "".join(chunk.content for chunk in chunks) == chat_text
    assert [each.usage_metadata["output_tokens"] for each in chunks if each.usage_metadata] == [12]
    assert "".join([chunk.content async for chunk in model.astream(ASKED)]) == chat_text


def test_langchain_completes(langchain: Any) -> None:
    model = langchain("OpenAI")
    whole = model.invoke("def f(")
    assert whole
    assert "".join(model.stream("def f(")) == whole
    assert model.generate(["def f(", "x"]).generations[0][0].text == whole


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_langchain_parses_into_a_class(langchain: Any, method: str) -> None:
    model = langchain(max_tokens=400).with_structured_output(Weather, method=method)
    assert isinstance(model.invoke(ASKED), Weather)


def test_langchain_calls_functions(langchain: Any) -> None:
    model = langchain(max_tokens=400).bind_tools([Weather], tool_choice="any")
    calls = model.invoke(ASKED).tool_calls
    assert calls
    for call in calls:
        assert call["name"] == "Weather"
        Weather.model_validate(call["args"])


def test_langchain_speaks_responses(langchain: Any) -> None:
    model = langchain(use_responses_api=True, seed=None, max_tokens=16)
    assert model.invoke(ASKED).text
    assert "".join(chunk.text for chunk in model.stream(ASKED))


async def test_llama_index_chats(llama_index: Any, chat_text: str) -> None:
    llms = pytest.importorskip("llama_index.core.llms")
    asked = [llms.ChatMessage(role="user", content=ASKED)]
    model = llama_index()
    assert model.chat(asked).message.content == chat_text
    assert "".join(each.delta or "" for each in model.stream_chat(asked)) == chat_text
    chunks = await model.astream_chat(asked)
    assert "".join([each.delta or "" async for each in chunks]) == chat_text


def test_llama_index_completes(llama_index: Any) -> None:
    model = llama_index(is_chat_model=False)
    whole = model.complete("def f(").text
    assert whole
    assert "".join(each.delta or "" for each in model.stream_complete("def f(")) == whole


def test_llama_index_calls_functions(llama_index: Any) -> None:
    model = llama_index(max_tokens=400, is_function_calling_model=True)
    prompts = pytest.importorskip("llama_index.core.prompts")
    assert isinstance(model.structured_predict(Weather, prompts.PromptTemplate(ASKED)), Weather)
