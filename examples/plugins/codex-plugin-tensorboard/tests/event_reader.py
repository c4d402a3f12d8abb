"""A reader of event files that shares nothing with the writer: checksums bit by bit, fields by their numbers."""

from __future__ import annotations

import struct
from pathlib import Path

from attrs import frozen


@frozen
class Read:
    """One value of an event: a number or a text at a step; of a session log the tag is `START`."""

    step: int
    tag: str
    value: object


def read(folder: Path) -> list[Read]:
    """Return all values in the event files of a folder, file after file as TensorBoard reads them."""
    return [value for path in sorted(folder.glob("*tfevents*")) for value in read_file(path)]


def read_file(path: Path) -> list[Read]:
    """Return all values of a file; fail at a wrong checksum, a half record, or a file without a version."""
    found: list[Read] = []
    first, *rest = records(path.read_bytes())
    assert fields(first)[3] == [b"brain.Event:2"]
    for data in rest:
        event = fields(data)
        step = event.get(2, [0])[0]
        found += [Read(step, "START", fields(session)[1] == [1]) for session in event.get(7, [])]
        values = [fields(value) for summary in event.get(5, []) for value in fields(summary).get(1, [])]
        found += [Read(step, value[1][0].decode(), content(value)) for value in values]
    return found


def content(value):
    """Return the number or the text of a value; for the tab HPARAMS the bytes of its metadata."""
    if 2 in value:
        return struct.unpack("<f", value[2][0])[0]
    if 8 in value:
        return fields(value[8][0])[8][0].decode()
    return fields(fields(value[9][0])[1][0])[2][0]


def records(content: bytes) -> list[bytes]:
    """Return the data of each record."""
    found, at = [], 0
    while at < len(content):
        length, crc = struct.unpack_from("<QI", content, at)
        assert crc == masked(content[at : at + 8])
        data = content[at + 12 : at + 12 + length]
        assert struct.unpack_from("<I", content, at + 12 + length)[0] == masked(data)
        found.append(data)
        at += 16 + length
    return found


def masked(data: bytes) -> int:
    """Return the masked CRC-32C, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32


def fields(data: bytes) -> dict[int, list]:
    """Return the fields of a message by their numbers, each as often as it is there."""
    found: dict[int, list] = {}
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = varint(data, at)
        elif kind == 2:
            size, at = varint(data, at)
            value, at = data[at : at + size], at + size
        else:
            size = {1: 8, 5: 4}[kind]
            value, at = data[at : at + size], at + size
        found.setdefault(key >> 3, []).append(value)
    return found


def varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number of variable length, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
