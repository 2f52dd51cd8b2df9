"""Constraints of the output: what SDK and router check of them alike. Whether a schema or grammar
compiles is the router's to find out."""

from lengthwise_wire.errors import InvalidRequest
from lengthwise_wire.limits import MAX_CHOICES, MAX_CONSTRAINT_BYTES
from lengthwise_wire.v1 import common_pb2


def check_constraint(constraint: common_pb2.Constraint) -> None:
    """Errors: InvalidRequest."""
    kind = constraint.WhichOneof("kind")
    if kind is None:
        raise InvalidRequest(
            "constraint: got none, expected one of json_schema, regex, lark, choice"
        )
    if constraint.ByteSize() > MAX_CONSTRAINT_BYTES:
        raise InvalidRequest(
            f"constraint.{kind}: got {constraint.ByteSize()} bytes, expected at most"
            f" {MAX_CONSTRAINT_BYTES}"
        )
    if kind == "choice":
        _check_choice(constraint.choice)
    elif not getattr(constraint, kind):
        raise InvalidRequest(f"constraint.{kind}: got an empty text, expected at least a character")


def _check_choice(choice: common_pb2.Choice) -> None:
    if not 1 <= len(choice.texts) <= MAX_CHOICES:
        raise InvalidRequest(
            f"constraint.choice: got {len(choice.texts)} texts, expected 1 to {MAX_CHOICES}"
        )
    if not all(choice.texts):
        raise InvalidRequest("constraint.choice: got an empty text, expected none")
