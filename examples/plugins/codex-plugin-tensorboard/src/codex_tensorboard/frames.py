"""The record format of event files: length, its checksum, the data, their checksum.

One rule: what is read is what was written; a record that was cut off or damaged ends the file.

The format is TFRecord's: https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

_POLYNOMIAL = 0x82F63B78
_MASK = 0xA282EAD8
_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")


def _table() -> tuple[int, ...]:
    rows = []
    for row in range(256):
        value = row
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        rows.append(value)
    return tuple(rows)


_TABLE = _table()


def masked_crc(data: bytes) -> int:
    """Return the CRC-32C (Castagnoli) of some bytes, masked as the format has it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


def framed(data: bytes) -> bytes:
    """Return a record that holds these bytes."""
    length = struct.pack("<Q", len(data))
    return length + _FOOTER.pack(masked_crc(length)) + data + _FOOTER.pack(masked_crc(data))


def frames(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield (record, data) of each whole record; what a killed process has left half written is left out."""
    content = path.read_bytes()
    at = 0
    while at + _HEADER.size <= len(content):
        length, crc = _HEADER.unpack_from(content, at)
        start = at + _HEADER.size
        end = start + length + _FOOTER.size
        if crc != masked_crc(content[at : at + 8]) or end > len(content):
            return
        data = content[start : start + length]
        if _FOOTER.unpack_from(content, start + length)[0] != masked_crc(data):
            return
        yield content[at:end], data
        at = end
