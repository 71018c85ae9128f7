# SPDX-License-Identifier: Apache-2.0
"""Files of named arrays in the safetensors format, in plain numpy.

A file is eight bytes, little-endian, that say how long the header is; the header, which is JSON: of
each name the dtype, the shape, and where it begins and ends; and the arrays, row by row
(github.com/huggingface/safetensors).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

_DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}


def load(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a file by name; those of dtypes that numpy has no match for raise.

    Raises:
      ValueError: it is not a safetensors file, or part of it is missing.
    """
    data = Path(path).read_bytes()
    try:
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start])
        header.pop("__metadata__", None)
        places = {n: (e["dtype"], tuple(e["shape"]), *e["data_offsets"]) for n, e in header.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected a safetensors file; its header is none") from error
    arrays = {}
    for name, (code, shape, begin, end) in places.items():
        if code not in _DTYPES:
            raise ValueError(f"{path}: {name}: expected dtype {', '.join(_DTYPES)}; got {code}")
        size, length = math.prod(shape) * _DTYPES[code].itemsize, len(data) - start
        if end - begin != size or not 0 <= begin <= end <= length:
            raise ValueError(
                f"{path}: {name}: expected {size} bytes for {code} {shape}; got those from {begin} "
                f"to {end} of {length}"
            )
        arrays[name] = np.frombuffer(data[start + begin : start + end], _DTYPES[code]).reshape(
            shape
        )
    return arrays


def save(path: str | Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes arrays by name.

    Raises:
      ValueError: the format has no such dtype.
    """
    header, parts, at = {}, [], 0
    for name, array in tensors.items():
        found = [code for code, dtype in _DTYPES.items() if dtype == array.dtype]
        if not found:
            raise ValueError(f"{name}: expected dtype {', '.join(_DTYPES)}; got {array.dtype.name}")
        parts.append(np.ascontiguousarray(array).tobytes())
        ends = [at, at := at + len(parts[-1])]
        header[name] = {"dtype": found[0], "shape": list(array.shape), "data_offsets": ends}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the arrays are aligned
    Path(path).write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))
