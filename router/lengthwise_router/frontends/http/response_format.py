"""`response_format` → the wire's constraint."""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lengthwise_wire.v1 import common_pb2


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class TextFormat(_Strict):
    """Any text."""

    type: Literal["text"]

    @property
    def constraint(self) -> common_pb2.Constraint | None:
        return None


class JsonObject(_Strict):
    """Any JSON object."""

    type: Literal["json_object"]

    @property
    def constraint(self) -> common_pb2.Constraint:
        return common_pb2.Constraint(json_schema='{"type": "object"}')


class NamedSchema(_Strict):
    """A schema is always kept to, `strict` or not; name and description are for the caller."""

    name: str
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None

    @property
    def constraint(self) -> common_pb2.Constraint:
        return common_pb2.Constraint(json_schema=json.dumps(self.schema_ or {}))


class JsonSchema(_Strict):
    """A JSON value that a schema accepts."""

    type: Literal["json_schema"]
    json_schema: NamedSchema

    @property
    def constraint(self) -> common_pb2.Constraint:
        return self.json_schema.constraint


class FlatJsonSchema(NamedSchema):
    """The same, as `/v1/responses` has it."""

    type: Literal["json_schema"]


ResponseFormat = Annotated[TextFormat | JsonObject | JsonSchema, Field(discriminator="type")]

TextFormatOfResponses = Annotated[
    TextFormat | JsonObject | FlatJsonSchema, Field(discriminator="type")
]
