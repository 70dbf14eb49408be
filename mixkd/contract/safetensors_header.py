"""The header of a safetensors file: what tensors it holds. The tensors are not read."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

from mixkd.contract.json_files import MAX_JSON_BYTES, json_object, refuse

# Bits per element, as the safetensors format defines them.
_BITS = {
    "F64": 64,
    "F32": 32,
    "F16": 16,
    "BF16": 16,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "C64": 64,
    "I64": 64,
    "I32": 32,
    "I16": 16,
    "I8": 8,
    "U64": 64,
    "U32": 32,
    "U16": 16,
    "U8": 8,
    "BOOL": 8,
}


@dataclass(frozen=True)
class Tensor:
    """A tensor's entry in a safetensors header."""

    dtype: str
    shape: tuple[int, ...]


def read_safetensors_header(path: Path) -> dict[str, Tensor]:
    """Names, types and shapes of the tensors in a safetensors file; the tensors are not read.

    The format: 8 bytes, the header's length N, little-endian; N bytes of JSON; the tensors, without gaps.

    Raises:
        RefusedError: the file is not of this form; its field is the file's name.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(MAX_JSON_BYTES, size - 8):
            raise refuse(path.name, "it is not a safetensors file, or it is cut short", size)
        header = json_object(file.read(length), path.name)
    header.pop("__metadata__", None)
    tensors: dict[str, Tensor] = {}
    spans = []
    for name, entry in header.items():
        tensors[name], start, end = _tensor(path.name, name, entry)
        spans.append((start, end))
    at = 0
    for start, end in sorted(spans):
        if start != at:
            raise refuse(path.name, "its tensors overlap or have gaps between them", None)
        at = end
    if at != size - 8 - length:
        raise refuse(path.name, "it is longer or shorter than its header says", size)
    return tensors


def _tensor(file: str, name: str, entry: object) -> tuple[Tensor, int, int]:
    broken = refuse(file, "its header has a broken entry", name[:100], "save the model again")
    if not isinstance(entry, dict):
        raise broken
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _BITS or not _sizes(shape) or not _sizes(offsets):
        raise broken
    assert isinstance(shape, list)
    assert isinstance(offsets, list)
    if len(offsets) != 2 or len(shape) > 8:
        raise broken
    start, end = offsets
    if (end - start) * 8 != math.prod(shape) * _BITS[dtype]:
        raise broken
    return Tensor(dtype, tuple(shape)), start, end


def _sizes(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**48 for n in value
    )
