"""Pack a state of numbers, texts and tensors into one tensor of a fixed size, which any checkpoint can hold."""

import base64
import json
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor


def pack(state: Mapping[str, Any], size: int, spare: Iterable[str] = ()) -> Tensor:
    """Pack `state` as JSON into a uint8 tensor `[size]`. Equal states give equal tensors.

    If it does not fit, the lists and mappings under the names in `spare` are emptied, one after the other.

    >>> unpack(pack({"steps": 3, "pool": torch.eye(2)}, 1000))
    {'steps': 3, 'pool': tensor([[1., 0.],
            [0., 1.]])}
    >>> unpack(pack({"steps": 3, "pool": {"a": torch.eye(2)}}, 40, spare=["pool"]))
    {'steps': 3, 'pool': {}}

    Raises:
        ValueError: the state still does not fit.
    """
    text = _text(state)
    for part in spare:
        if len(text) > size:
            state = {**state, part: type(state[part])()}
            text = _text(state)
    if len(text) > size:
        raise ValueError(f"size is {size}, but the state takes {len(text)} bytes; raise it.")
    return torch.frombuffer(bytearray(text.ljust(size)), dtype=torch.uint8)  # JSON allows spaces at its end


def unpack(packed: Tensor) -> dict[str, Any]:
    """Return the packed state. Its tensors are on the CPU, and its tuples have become lists."""
    return json.loads(_bytes_of(packed), object_hook=_from_json)


def _text(state: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(state), default=_as_json).encode()


def _as_json(tensor: Tensor) -> dict[str, Any]:
    content = base64.b64encode(_bytes_of(tensor)).decode()
    return {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape), "base64": content}


def _from_json(given: dict[str, Any]) -> Any:
    if "base64" not in given:
        return given
    content = torch.tensor(list(base64.b64decode(given["base64"])), dtype=torch.uint8)
    return content.view(vars(torch)[given["dtype"]]).view(given["shape"])


def _bytes_of(tensor: Tensor) -> bytes:
    values: list[int] = tensor.detach().cpu().reshape(-1).view(torch.uint8).tolist()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return bytes(values)
