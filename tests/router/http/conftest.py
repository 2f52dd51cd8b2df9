"""A router that serves HTTP, between a real client of OpenAI's and stub workers."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import openai
import pytest
import pytest_asyncio
from router.deployment import Deploy, Deployment, deployed, deploying
from router.http.raw import ServedHttp
from router.stub_workers import MODEL

from lengthwise_router.config import HttpConfig

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"


@pytest.fixture(scope="session")
def chat_checkpoint(stub_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stubs' model with a chat template."""
    folder = tmp_path_factory.mktemp("chat") / MODEL
    shutil.copytree(stub_checkpoint, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture
async def serve(chat_checkpoint: Path) -> AsyncIterator[Deploy]:
    """As `deploy`, with HTTP."""
    async with deploying(chat_checkpoint, http=HttpConfig(listen="127.0.0.1:0")) as serve:
        yield serve


@pytest.fixture
async def http(serve: Deploy) -> AsyncIterator[ServedHttp]:
    """One pair of workers, an `openai` client that tries once, and a plain one."""
    async with calling(await serve()) as served:
        yield served


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(chat_checkpoint: Path) -> AsyncIterator[ServedHttp]:
    """The same for all tests of a file, which leave it as it was."""
    config = {"http": HttpConfig(listen="127.0.0.1:0")}
    async with (
        deployed(chat_checkpoint, 1, 1, 0.002, config) as deployment,
        calling(deployment) as served,
    ):
        yield served


@asynccontextmanager
async def calling(deployment: Deployment) -> AsyncIterator[ServedHttp]:
    base = f"http://{deployment.app.http_address}"
    async with (
        openai.AsyncOpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0) as client,
        httpx.AsyncClient(base_url=base, timeout=20) as plain,
    ):
        yield ServedHttp(deployment, client, plain)
