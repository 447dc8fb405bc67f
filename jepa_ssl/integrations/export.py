"""Export and load encoders as safetensors files, checked at both ends. Needs the extra `jepa_ssl[export]`."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from jepa_ssl.checks import describe
from jepa_ssl.files import write_atomically
from jepa_ssl.freezing import freeze as frozen
from jepa_ssl.names import without_wrappers

try:
    from safetensors import safe_open
    from safetensors.torch import save
except ImportError as error:
    raise ImportError(
        "exporting an encoder needs safetensors, which is not installed; pip install 'jepa_ssl[export]'."
    ) from error

ENTRY = "jepa_ssl"  # in the file's header. One, for of several the library would write the order at random
EIGHT_BITS = (torch.float8_e4m3fn, torch.float8_e5m2)
STORED = {torch.float64, torch.float32, torch.float16, torch.bfloat16, *EIGHT_BITS, torch.bool, torch.complex64} | {
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8)
}
SHOWN = 5  # names in an error


def export_encoder(encoder: nn.Module, path: str | os.PathLike[str], metadata: Mapping[str, Any] | None = None) -> None:
    """Write the encoder's parameters and persistent buffers, and your metadata, into one safetensors file.

    Names are clean: the prefixes of `torch.compile` and DDP are left out. Tied tensors are written under each of their
    names, so that the file can be read without knowing of the tie. The file is written whole or not at all. The same
    encoder makes the same file, byte for byte. Export what you will use again: only the trunk, if the projector served
    only the JEPA term.

    Args:
        path: of the file, in a folder that exists; an existing file is replaced.
        metadata: what is needed to build such an encoder and to say how it was trained, as JSON takes it: flags, sizes,
            seeds. `read_metadata` and `load_encoder` return it, with tuples as lists.

    Raises:
        FileNotFoundError: the folder does not exist.
        IsADirectoryError: `path` is a folder itself.
        TypeError: `encoder` is not a module, or holds something else than tensors; or JSON does not take `metadata`.
        ValueError: a tensor has no values yet, is not dense, or has a dtype that safetensors does not store. Or a
            parameter is not finite, or a buffer has NaN.
        OSError: the disk is full, or does not take the file for another reason; an existing file is still there.
    """
    path = Path(path)
    if not os.path.isdir(path.parent):  # Path's own raises an error of its own where a name is too long
        raise FileNotFoundError(f"path is {path}, but there is no folder {path.parent}; make it first.")
    if os.path.isdir(path):
        raise IsADirectoryError(f"path is {path}, a folder; name a file in it, such as {path / 'encoder.safetensors'}.")
    text = _as_json(metadata or {})
    # Copies, for the format takes no two tensors that share memory.
    tensors = {
        name: tensor.cpu().clone(memory_format=torch.contiguous_format) for name, tensor in _state(encoder).items()
    }
    _check_numbers(encoder, tensors)
    header = {"metadata": text, "sha256": _digest(tensors, text)}
    content = save(tensors, {ENTRY: json.dumps(header)})
    write_atomically(path, lambda file: file.write(content))


def load_encoder(encoder: nn.Module, path: str | os.PathLike[str], *, freeze: bool = False) -> dict[str, Any]:
    """Load into the encoder what `export_encoder` wrote, and return the metadata.

    Nothing is unpickled, and the encoder is not changed before all has been checked. It may be compiled or wrapped, or
    on another device than the exported one. Its train or eval mode does not change.

    Args:
        encoder: built as the exported one was.
        freeze: freeze the encoder for good, see `jepa_ssl.freezing.freeze`.

    Raises:
        FileNotFoundError, IsADirectoryError: there is no such file.
        TypeError: `encoder` is not a module, or holds something else than tensors.
        ValueError: the file is truncated, damaged or of another kind, or does not fit the encoder.
    """
    stored, metadata = _read(Path(path))
    own = _state(encoder)
    _check_fit(own, stored, path)
    actual = without_wrappers(encoder, {name: name for name in encoder.state_dict()})
    for tensor in chain(encoder.parameters(), encoder.buffers()):
        if (
            tensor.layout == torch.strided and 0 in tensor.stride() and tensor.numel() > 1
        ):  # expanded, which torch does not write to
            tensor.data = tensor.detach().clone(memory_format=torch.contiguous_format)
    encoder.load_state_dict({actual[name]: tensor for name, tensor in stored.items()})
    if freeze:
        frozen(encoder)
    return metadata


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The metadata of an exported encoder, from which to build the one to load it into.

    Raises:
        FileNotFoundError, IsADirectoryError: there is no such file.
        ValueError: the file is truncated, damaged or of another kind.
    """
    return _read(Path(path))[1]


def _state(encoder: nn.Module) -> dict[str, Tensor]:
    """What `state_dict` holds, by clean names."""
    if not isinstance(encoder, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"encoder is a {type(encoder).__name__}, but must be an nn.Module; give the network itself.")
    state = without_wrappers(encoder, cast(Mapping[str, object], encoder.state_dict()))
    tensors: dict[str, Tensor] = {}
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise TypeError(
                f"encoder holds {name}, a {type(value).__name__}, but only tensors can be exported and loaded; keep "
                f"the rest in the metadata."
            )
        if nn.parameter.is_lazy(value) or value.is_meta:
            raise ValueError(
                f"encoder's {name} has no values yet; build it in full on a device, and run a lazy module once before."
            )
        if value.layout != torch.strided or value.dtype not in STORED:
            reason = "not dense" if value.layout != torch.strided else describe(value)
            raise ValueError(
                f"encoder's {name} is {reason}, which safetensors does not store; make it dense tensors of float, int "
                f"or complex64, or register it with persistent=False if your code can build it again."
            )
        tensors[name] = value
    return tensors


def _as_json(metadata: Mapping[str, Any]) -> str:
    _check_keys(metadata)
    try:
        return json.dumps(dict(metadata), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"metadata cannot be written as JSON ({error}); use text, finite numbers, booleans, None, lists and "
            f"dictionaries with text as keys."
        ) from error


def _check_keys(value: object) -> None:
    """JSON would write 1 and True as text, and the second over the first."""
    if isinstance(value, Mapping):
        for key, each in cast(Mapping[object, object], value).items():
            if not isinstance(key, str):
                raise TypeError(
                    f"metadata cannot be written as JSON: {key!r} is a key of type {type(key).__name__}; use text as "
                    f"keys."
                )
            _check_keys(each)
    elif isinstance(value, list | tuple):
        for each in cast(list[object], value):
            _check_keys(each)


def _check_numbers(encoder: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """A buffer may hold infinities: an attention mask does."""
    parameters = without_wrappers(encoder, dict(encoder.named_parameters(remove_duplicate=False)))
    bad = [
        name
        for name, tensor in tensors.items()
        if (not _widened(tensor).isfinite().all() if name in parameters else _widened(tensor).isnan().any())
    ]
    if bad:
        raise ValueError(
            f"encoder has values that are not finite in {_listed(bad)}, so it is useless; export an earlier "
            f"checkpoint, and lower the learning rate."
        )


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in EIGHT_BITS else tensor


def _digest(tensors: Mapping[str, Tensor], metadata: str) -> str:
    """SHA-256 of metadata, names, dtypes, shapes and values; the format itself would not notice a flipped byte."""
    names = sorted(tensors)
    heads = [(name, str(tensors[name].dtype), list(tensors[name].shape)) for name in names]
    digest = hashlib.sha256(json.dumps([metadata, heads]).encode())
    for name in names:
        digest.update(cast(Any, _bits(tensors[name]).numpy()))
    return digest.hexdigest()


def _bits(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if os.path.isdir(path):
        raise IsADirectoryError(f"{path} is a folder; name the file in it that export_encoder wrote.")
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path} does not exist; name a file that export_encoder wrote.")
    try:
        with cast(Any, safe_open(path, framework="pt")) as file:
            header = json.loads(file.metadata()[ENTRY])
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        text, expected = header["metadata"], header["sha256"]
        if _digest(tensors, text) == expected:
            return tensors, json.loads(text)
    except Exception as error:  # of many kinds, for many kinds of damage
        raise ValueError(
            f"{path} cannot be read as an exported encoder: truncated, damaged or of another kind. Export it again."
        ) from error
    raise ValueError(f"{path} is damaged: its content does not fit its checksum. Export it again.")


def _check_fit(own: Mapping[str, Tensor], stored: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    common = own.keys() & stored.keys()
    other = [
        f"{name} ({describe(stored[name])}, not {describe(own[name])})"
        for name in sorted(common)
        if (stored[name].shape, stored[name].dtype) != (own[name].shape, own[name].dtype)
    ]
    missing, unexpected = sorted(own.keys() - common), sorted(stored.keys() - common)
    if other or missing or unexpected or not common:
        parts = (("lacks", missing), ("adds", unexpected), ("has of another shape or dtype", other))
        said = "; ".join(f"it {verb} {_listed(names)}" for verb, names in parts if names)
        raise ValueError(
            f"{path} does not fit the encoder: {said or 'neither has any tensor'}. Build the encoder as the exported "
            f"one was (read_metadata says how), load into the part of your model that was exported, convert dtypes "
            f"after loading."
        )
    _check_ties(own, stored, path)


def _check_ties(own: Mapping[str, Tensor], stored: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    first: dict[Any, str] = {}
    for name in sorted(own):
        place = (own[name].data_ptr(), own[name].dtype, own[name].shape, own[name].stride())
        tied = first.setdefault(place, name)
        if not torch.equal(_bits(stored[tied]), _bits(stored[name])):
            raise ValueError(
                f"the encoder ties {tied} and {name}, but {path} holds different values for them; load it into an "
                f"encoder without that tie."
            )


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
