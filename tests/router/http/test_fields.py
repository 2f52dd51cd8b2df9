"""The table of fields: the code goes by it, the documentation prints it, and it leaves out nothing
that OpenAI's package can send."""

from pathlib import Path

import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsBase as ChatParams
from openai.types.completion_create_params import CompletionCreateParamsBase as TextParams
from openai.types.responses.response_create_params import (
    ResponseCreateParamsBase as ResponseParams,
)

from lengthwise_router.frontends.http.chat import ChatOptions
from lengthwise_router.frontends.http.completions import CompletionOptions
from lengthwise_router.frontends.http.fields import FIELDS, Endpoint, fields_of
from lengthwise_router.frontends.http.options import CallFields
from lengthwise_router.frontends.http.responses.options import ResponseOptions

DOCUMENT = Path(__file__).parents[3] / "docs/http.md"


@pytest.mark.parametrize(
    ("endpoint", "options"),
    [("chat", ChatOptions), ("completions", CompletionOptions), ("responses", ResponseOptions)],
)
def test_what_is_served_is_what_is_read(endpoint: Endpoint, options: type[CallFields]) -> None:
    served = {field.name for field in fields_of(endpoint).values() if field.handling == "served"}
    assert served == set(options.model_fields)


@pytest.mark.parametrize(
    ("endpoint", "params"),
    [("chat", ChatParams), ("completions", TextParams), ("responses", ResponseParams)],
)
def test_every_field_of_openai_is_decided(endpoint: Endpoint, params: type) -> None:
    assert set(params.__annotations__) | {"stream"} <= fields_of(endpoint).keys()


def test_every_field_is_there_once() -> None:
    pairs = [(field.name, endpoint) for field in FIELDS for endpoint in field.endpoints]
    assert len(pairs) == len(set(pairs))


def test_the_document_has_the_table() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    missing = [field.row for field in FIELDS if field.row not in text]
    assert not missing, "\n".join(missing)
    table = text.split("## Fields")[1].split("\n## ")[0]
    assert table.count("\n| `") == len(FIELDS)
