"""The wire format of protocol buffers, as much of it as finding and writing fields needs.

Lets an ONNX file be read and a warm-up record be written without the packages that define them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Field:
    """Where one field lies in the data.

    Attributes:
        number: of the field in its message.
        kind: wire type.
        start: first byte of the field's tag.
        value: first byte of the value; behind the length where there is one.
        end: one past the value.
    """

    number: int
    kind: int
    start: int
    value: int
    end: int


def read_varint(data: bytes, place: int, end: int) -> tuple[int, int]:
    """The unsigned number at `place`, and the place behind it.

    Raises:
        ValueError: it does not end before `end`, or has more than 64 bits.
    """
    number = 0
    for shift in range(0, 64, 7):
        if place >= end:
            break
        byte = data[place]
        place += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, place
    raise ValueError("a number is cut off")


def fields(data: bytes, start: int = 0, end: int | None = None) -> Iterator[Field]:
    """The fields of the message between `start` and `end`, in stored order.

    Raises:
        ValueError: truncated or no protocol buffer.
    """
    end = len(data) if end is None else end
    place = start
    while place < end:
        first = place
        tag, place = read_varint(data, place, end)
        kind = tag & 7
        value = place
        if kind == VARINT:
            _, place = read_varint(data, place, end)
        elif kind == LENGTH:
            length, value = read_varint(data, place, end)
            place = value + length
        elif kind in (FIXED32, FIXED64):
            place += 4 if kind == FIXED32 else 8
        else:
            raise ValueError(f"there is no wire type {kind}")
        if place > end or tag < 8:
            raise ValueError("a field is cut off")
        yield Field(tag >> 3, kind, first, value, place)


def varint(number: int) -> bytes:
    """An unsigned number as it is stored."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number: int, value: bytes | str | int) -> bytes:
    """A field: a number, or bytes, text or an inner message behind its length."""
    if isinstance(value, int):
        return varint(number << 3 | VARINT) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | LENGTH) + varint(len(value)) + value
