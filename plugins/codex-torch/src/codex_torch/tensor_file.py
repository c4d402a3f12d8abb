"""Tensors in the safetensors format, written piece by piece.

One rule: a file is never held in memory as a whole, so that its SHA-256 is taken and its bytes are written in one pass.
The format: 8 bytes with the header's length, the header as JSON, then the tensors' bytes in the header's order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

import torch
from attrs import frozen
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from codex_kernel import PluginError, StorageError

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ALIGNMENT = 8
"""Bytes that the data start at a multiple of, as the safetensors library writes it."""


def pieces(tensors: Mapping[str, Tensor]) -> Iterator[memoryview]:
    """Return the bytes of a safetensors file, piece by piece: the header, then tensor after tensor.

    Raises TypeError, at once, for a tensor of a dtype that the format does not have.
    """
    # Wide types first, as the library does it, so that each tensor is aligned.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    return chain([memoryview(_header(names, tensors))], (_bytes_of(tensors[name]) for name in names))


def _bytes_of(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def refuse_others(files: Mapping[str, Mapping[str, object]]) -> None:
    """Raise PluginError where something among the tensors is no torch tensor: it is of a trainer without torch."""
    for file, tensors in files.items():
        for name, tensor in tensors.items():
            if not isinstance(tensor, Tensor):
                kind = f"{type(tensor).__module__}.{type(tensor).__qualname__}"
                raise PluginError(
                    f"checkpointer 'safetensors' keeps torch tensors, got {kind} for {name!r} of {file}",
                    remedy="name another checkpointer in the manifest; the trainer's documentation says which",
                )


def size_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Return the bytes of the tensors' data, without the header."""
    return sum(tensor.nbytes for tensor in tensors.values())


@frozen(eq=False)
class TensorFiles(Mapping[str, dict[str, Tensor]]):
    """The tensors of some files in a folder, each file read anew whenever it is asked for.

    So nobody who keeps the mapping keeps the tensors too, nor the disk space of a file that is deleted meanwhile.
    """

    folder: Path
    names: Sequence[str]

    def __getitem__(self, name: str) -> dict[str, Tensor]:
        if name not in self.names:
            raise KeyError(name)
        try:
            return read(self.folder / name)
        except (OSError, SafetensorError) as error:
            raise StorageError(
                f"cannot read {self.folder / name}: {error}",
                remedy="if the run that trains has deleted it since: ask again",
            ) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def read(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file, on the CPU."""
    return load_file(path, device="cpu")


def _header(names: list[str], tensors: Mapping[str, Tensor]) -> bytes:
    # transformers refuses a file that does not say which library its tensors are from.
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in names:
        tensor = tensors[name]
        if tensor.dtype not in _DTYPES:
            raise TypeError(f"safetensors has no dtype for {name!r}: {tensor.dtype}")
        end = offset + tensor.nbytes
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
