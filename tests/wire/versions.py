"""Messages as peers of older versions have them: without the fields that came later."""

from typing import Any, TypeVar

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

Kind = TypeVar("Kind", bound=Message)


def older(kind: type[Message], *without: str) -> type[Message]:
    """The class that a version had which knew no field of these names, in any message of the file
    or of those it imports."""
    pool = descriptor_pool.DescriptorPool()
    _add(pool, kind.DESCRIPTOR.file, frozenset(without))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(kind.DESCRIPTOR.full_name))


def through_older(message: Kind, *without: str) -> Kind:
    """What is left of a message that a peer of such a version reads, or writes."""
    read = older(type(message), *without)()
    read.ParseFromString(message.SerializeToString())
    read.DiscardUnknownFields()
    return type(message).FromString(read.SerializeToString())


def _add(pool: descriptor_pool.DescriptorPool, file: Any, without: frozenset[str]) -> None:
    for imported in file.dependencies:
        _add(pool, imported, without)
    proto = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(proto)
    for message in proto.message_type:
        _remove(message, without)
    pool.Add(proto)


def _remove(message: descriptor_pb2.DescriptorProto, without: frozenset[str]) -> None:
    """An optional field lies in a oneof of its own, which goes with it."""
    fields = [each for each in message.field if each.name in without]
    oneofs = sorted(each.oneof_index for each in fields if each.proto3_optional)
    for index in reversed(range(len(message.field))):
        if message.field[index].name in without:
            del message.field[index]
    for index in reversed(oneofs):
        del message.oneof_decl[index]
    for field in message.field:
        if field.HasField("oneof_index"):
            field.oneof_index -= sum(each < field.oneof_index for each in oneofs)
