"""States of numbers, texts and tensors as one tensor, which everything that saves tensors can save."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def pack(state: Mapping[str, Any]) -> Tensor:
    """`state` as JSON in a uint8 tensor, `[bytes]`; the same state is the same tensor.

    >>> unpack(pack({"steps": 3, "pool": torch.eye(2)}))
    {'steps': 3, 'pool': tensor([[1., 0.],
            [0., 1.]])}
    """
    return torch.frombuffer(bytearray(json.dumps(dict(state), default=_as_json).encode()), dtype=torch.uint8)


def unpack(packed: Tensor) -> dict[str, Any]:
    """The state that was packed. Its tensors are on the CPU, and its tuples have become lists."""
    return json.loads(_bytes_of(packed), object_hook=_from_json)


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
