"""The page's files and the JSON that it shows beside the chat."""

import asyncio
import re
from pathlib import Path

import pytest
from router.deployment import Deploy
from router.http.conftest import calling
from router.http.raw import JSON, ServedHttp, error_of
from router.stub_workers import MODEL

from lengthwise_router.config import HttpConfig
from lengthwise_router.frontends.http.page.files import STATIC


@pytest.mark.asyncio(loop_scope="module")
async def test_the_page_is_there_with_all_that_it_needs_and_nothing_from_elsewhere(
    shared: ServedHttp,
) -> None:
    page = await shared.plain.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    pending, seen = set(re.findall(r'(?:src|href)="([^"]+)"', page.text)), set()
    while pending:
        name = pending.pop()
        seen.add(name)
        file = await shared.plain.get("/" + name)
        assert file.status_code == 200, name
        assert file.headers["x-content-type-options"] == "nosniff"
        imported = re.findall(r'from "\./([^"]+)"', file.text)
        pending |= {f"page/{other}" for other in imported} - seen
    assert seen == {f"page/{path.name}" for path in STATIC.iterdir() if path.suffix != ".html"}


@pytest.mark.parametrize("path", sorted(STATIC.iterdir()), ids=lambda path: path.name)
def test_no_file_makes_code_of_text_or_names_another_site(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(",
                      "<script>", " style=", " onclick=", "//cdn", "https://"):  # fmt: skip
        assert forbidden not in text


@pytest.mark.asyncio(loop_scope="module")
async def test_what_runs_on_the_page_is_its_own_files_alone(shared: ServedHttp) -> None:
    policy = (await shared.plain.get("/")).headers["content-security-policy"]
    rules = dict(rule.split(maxsplit=1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert rules["frame-ancestors"] == "'none'"


async def test_without_the_page_all_else_is_served(serve: Deploy) -> None:
    deployment = await serve(http=HttpConfig(listen="127.0.0.1:0", page=False))
    async with calling(deployment) as http:
        for path in ("/", "/page/main.js"):
            assert (await http.plain.get(path)).status_code == 404
        assert (await http.plain.get("/status")).status_code == 200


async def test_a_request_is_explained_as_over_grpc(http: ServedHttp) -> None:
    await http.complete(tenant="a")
    response = await http.plain.post(
        "/v1/completions",
        json={"model": MODEL, "prompt": "a", "max_tokens": 3, "tenant": "a"},
        headers={**JSON, "x-request-id": "one/two?"},
    )
    assert response.headers["x-request-id"] == "one/two?"
    asked = {"tenant": "a", "model": MODEL}
    told = (await http.plain.get("/explain/one%2Ftwo%3F", params=asked)).json()
    (attempt,) = told["attempts"]
    assert (told["request_id"], told["model"], told["output_tokens"]) == ("one/two?", MODEL, 3)
    assert attempt["prefill_worker"] == http.deployment.prefill[0].worker_id
    assert attempt["failure"] == ""
    assert told["end"]["code"] == "OK"


@pytest.mark.asyncio(loop_scope="module")
async def test_what_is_not_remembered_is_refused_in_words(shared: ServedHttp) -> None:
    response = await shared.complete(tenant="a")
    request_id = response.headers["x-request-id"]
    for path in (f"/explain/{request_id}", "/explain/other"):
        refused = await shared.plain.get(path)
        assert refused.status_code == 404
        assert "request" in error_of(refused)["message"]
    unknown = await shared.plain.get(f"/explain/{request_id}", params={"model": "other"})
    assert error_of(unknown)["code"] == "model_not_found"
    for name in ("", "a" * 1000, "a%00b"):
        assert (await shared.plain.get(f"/explain/{name}")).status_code == 400


@pytest.mark.asyncio(loop_scope="module")
async def test_the_status_is_that_of_grpc(shared: ServedHttp) -> None:
    await shared.complete()
    async with asyncio.timeout(10):
        while True:
            status = (await shared.plain.get("/status")).json()
            if all("status" in worker for worker in status["workers"]):
                break
            await asyncio.sleep(0.1)
    assert status["router_id"].startswith("router-")
    assert [model["model"] for model in status["models"]] == [MODEL]
    assert {worker["status"]["role"] for worker in status["workers"]} == {
        "ROLE_PREFILL",
        "ROLE_DECODE",
    }
    assert status["num_workers"] == 2
    assert not status["draining"]


@pytest.mark.asyncio(loop_scope="module")
async def test_many_who_look_at_once_are_told_the_same_and_cost_one_report(
    shared: ServedHttp,
) -> None:
    answers = await asyncio.gather(*(shared.plain.get("/status") for _ in range(50)))
    assert len({answer.json()["uptime_seconds"] for answer in answers}) < 25


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_texts_are_told_from_their_grounds(scheme: str) -> None:
    """By WCAG 2.2, 1.4.3 (AA) and 1.4.11 (edges of controls)."""
    style = (STATIC / "style.css").read_text(encoding="utf-8")
    light, dark = re.findall(r":root \{(.*?)\}", style, re.S)
    colors = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", dark if scheme == "dark" else light))
    for text, ground, least in (
        *(("text", ground, 4.5) for ground in ("ground", "panel", "own")),
        *(("quiet", ground, 4.5) for ground in ("ground", "panel", "own")),
        *((text, "panel", 4.5) for text in ("accent", "good", "wait", "error")),
        ("on-accent", "accent", 4.5), ("error", "error-ground", 4.5), ("edge", "panel", 3.0),
        *((bar, "ground", 3.0) for bar in ("wait", "compute", "move", "decode", "rest")),
    ):  # fmt: skip
        lighter, darker = sorted(map(_luminance, (colors[text], colors[ground])), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= least, (text, ground)


def _luminance(color: str) -> float:
    """Of `#rrggbb`, relative, as WCAG defines it."""
    values = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
