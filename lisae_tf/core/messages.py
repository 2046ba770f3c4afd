"""Protocol buffers whose generated classes come with packages that are too heavy, or too slow.

Their fields are declared here and there as far as they are looked at; `google.protobuf` does the
rest, and keeps what nobody has declared.
"""

from collections.abc import Mapping
from typing import Any

_PACKAGE = "declared"


def declare(messages: Mapping[str, Mapping[str, tuple[int, str]]]) -> dict[str, type]:
    """The classes of some messages, by name.

    Args:
        messages: of each its fields: a number, and "int64", "bytes" or the name of a message,
            behind "repeated " where there may be several.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name=_PACKAGE, package=_PACKAGE)
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for key, (number, declared) in fields.items():
            repeated, _, kind = declared.rpartition(" ")
            label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            field = message.field.add(name=key, number=number, label=label)
            if kind in messages:
                field.type, field.type_name = kinds.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
            else:
                field.type = kinds.Type.Value(f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = ((name, pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in messages)
    return {name: message_factory.GetMessageClass(each) for name, each in found}


def parse(kind: type, data: bytes) -> Any:
    """A message of that class.

    Raises:
        ValueError: truncated or no protocol buffer.
    """
    from google.protobuf.message import DecodeError

    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise ValueError("it is cut off or no protocol buffer") from error
