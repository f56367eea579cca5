"""Safetensors files, read and written with NumPy alone, for tools/goldens.py and tools/pytorch_load.py."""

import json
import struct

import numpy as np

DTYPES = {"float64": "F64", "int64": "I64", "float32": "F32", "int32": "I32", "float16": "F16"}


def write_safetensors(path, tensors, metadata):
    """The safetensors format: length of the header (u64), header (JSON), then the tensors without gaps.

    Wide elements come first, and the header is padded to 8 bytes, so that every tensor is aligned.
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header, end = {"__metadata__": metadata}, 0
    for name in names:
        start, end = end, end + tensors[name].nbytes
        dtype = DTYPES[tensors[name].dtype.name]
        header[name] = {"dtype": dtype, "shape": list(tensors[name].shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            file.write(np.ascontiguousarray(tensors[name]).tobytes())


def read_safetensors(path):
    """The tensors by name, and the metadata."""
    with open(path, "rb") as file:
        data = file.read()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    types = {short: np.dtype(name) for name, short in DTYPES.items()}
    tensors = {}
    for name, entry in header.items():
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        values = np.frombuffer(data[start:end], types[entry["dtype"]])
        tensors[name] = values.reshape(entry["shape"]).copy()
    return tensors, metadata
