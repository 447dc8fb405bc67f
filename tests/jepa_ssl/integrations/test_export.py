"""Exported encoders: what is written is loaded, and what does not fit or is damaged is refused and changes nothing."""

import copy
import json
import os
import random
import re
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed import destroy_process_group, init_process_group

from jepa_ssl.integrations.export import ENTRY, export_encoder, load_encoder, read_metadata


class Encoder(nn.Module):
    """Parameters and buffers of several kinds, with ties and views, and one buffer that is not saved."""

    unsaved: Tensor

    def __init__(self) -> None:
        super().__init__()
        last = nn.Linear(4, 4, bias=False)
        self.trunk: nn.Module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), last)
        self.again = self.trunk
        self.tied = nn.Linear(4, 4)
        self.tied.weight = last.weight
        self.low = nn.Parameter(torch.randn(2, 2, dtype=torch.bfloat16))
        self.scalar = nn.Parameter(torch.randn(()))
        self.register_buffer("saved", torch.randn(5)[1::2])
        self.register_buffer("causal", torch.full((2, 2), -torch.inf).triu(1))
        self.register_buffer("row", last.weight.detach()[0])
        self.register_buffer("empty", torch.zeros(0, 3))
        self.register_buffer("nothing", torch.zeros(0, 3, dtype=torch.int64))
        self.register_buffer("chosen", torch.rand(3) > 0.5)
        self.register_buffer("transposed", torch.randn(2, 3, dtype=torch.float64).T)
        self.register_buffer("unsaved", torch.randn(2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.tied(self.trunk(x))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Encoder, Path]:
    """An encoder that has seen something, and its file."""
    torch.manual_seed(1)
    encoder, path = Encoder(), tmp_path_factory.mktemp("exported") / "encoder.safetensors"
    encoder(torch.randn(5, 3))
    export_encoder(encoder, path, {"lr": 1e-3, "families": ["set_cover"], "seed": None})
    return encoder, path


def same(one: nn.Module, other: nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][name], states[1][name]) for name in states[0]
    )


def refused(encoder: nn.Module, path: Path, error: type[Exception] = ValueError, **how: Any) -> str:
    """The message, on one line; the encoder is as it was."""
    before = copy.deepcopy(encoder)
    with pytest.raises(error) as caught:
        load_encoder(encoder, path, **how)
    assert same(encoder, before)
    return str(caught.value)


def test_what_was_exported_is_loaded(exported):
    encoder, path = exported
    fresh = Encoder()
    unsaved = fresh.unsaved.clone()
    metadata = load_encoder(fresh, path)
    assert same(fresh, encoder)
    assert metadata == read_metadata(path) == {"lr": 1e-3, "families": ["set_cover"], "seed": None}
    assert torch.equal(fresh.unsaved, unsaved)
    assert fresh.tied.weight is fresh.get_parameter("trunk.2.weight")
    assert fresh.training
    assert fresh.low.requires_grad


def test_it_is_frozen_on_demand(exported):
    _, path = exported
    model = nn.Sequential(Encoder())
    load_encoder(model[0], path, freeze=True)
    model.train()
    assert not any(part.training for part in model[0].modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_the_file_is_plain_safetensors_with_clean_names(exported):
    encoder, path = exported
    tensors = load_file(path)
    assert tensors.keys() == encoder.state_dict().keys()
    for name, value in encoder.state_dict().items():
        assert tensors[name].dtype == value.dtype
        assert torch.equal(tensors[name], value)


def test_the_same_encoder_makes_the_same_file_and_is_left_alone(exported, tmp_path):
    encoder, path = exported
    before = copy.deepcopy(encoder)
    export_encoder(encoder, tmp_path / "again", {"seed": None, "families": ("set_cover",), "lr": 1e-3})
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    assert same(encoder, before)


@pytest.fixture
def ddp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[nn.Module], nn.Module]]:
    where = f"file://{tmp_path_factory.mktemp('ddp') / 'store'}"
    init_process_group("gloo", init_method=where, rank=0, world_size=1)
    yield nn.parallel.DistributedDataParallel
    destroy_process_group()


@pytest.mark.parametrize("wrapper", ["compile", "ddp", "both", "a part"])
def test_wrappers_leave_no_trace(wrapper, exported, tmp_path, ddp):
    encoder, path = exported

    def compiled(module: nn.Module) -> Any:
        return torch.compile(module, backend="eager")

    def wrapped(module: nn.Module) -> nn.Module:
        if wrapper == "a part":
            module.trunk = module.again = compiled(module.get_submodule("trunk"))
            return module
        return {"compile": compiled, "ddp": ddp, "both": lambda m: ddp(compiled(m))}[wrapper](module)

    export_encoder(wrapped(copy.deepcopy(encoder)), tmp_path / "file", read_metadata(path))
    assert (tmp_path / "file").read_bytes() == path.read_bytes()
    fresh = wrapped(Encoder())
    load_encoder(fresh, path)
    load_encoder(plain := Encoder(), path)
    assert [*map(torch.Tensor.tolist, fresh.state_dict().values())] == [
        *map(torch.Tensor.tolist, plain.state_dict().values())
    ]


@pytest.mark.parametrize("beside", [nn.Linear(1, 1), nn.Parameter(torch.ones(1))])
def test_a_model_with_a_part_named_module_keeps_that_name(beside, tmp_path):
    model = nn.Module()
    model.module, model.beside = nn.Linear(1, 1), beside
    export_encoder(model, tmp_path / "file")
    assert load_file(tmp_path / "file").keys() == model.state_dict().keys()


# ---- what does not fit -------------------------------------------------------------------------------------


def test_names_that_do_not_fit_are_named(exported, tmp_path):
    _, path = exported
    export_encoder(nn.Linear(2, 3), tmp_path / "linear", {})
    said = refused(nn.Linear(2, 3, bias=False), tmp_path / "linear")
    assert "linear does not fit the encoder: it adds bias. Build the encoder" in said
    model = nn.Linear(2, 3)
    model.register_buffer("more", torch.zeros(1))
    assert "it lacks more." in refused(model, tmp_path / "linear")
    said = refused(nn.Sequential(*(nn.Linear(1, 1) for _ in range(4))), path)
    assert "it lacks 0.bias, 0.weight, 1.bias, 1.weight, 2.bias and 3 more; it adds " in said


def test_shapes_and_dtypes_that_do_not_fit_are_named(tmp_path):
    export_encoder(nn.Linear(2, 3), tmp_path / "file")
    said = refused(nn.Linear(3, 3), tmp_path / "file")
    assert "has of another shape or dtype weight (float32 [3, 2], not float32 [3, 3])" in said
    assert "bias" not in said
    said = refused(nn.Linear(2, 3, dtype=torch.float64), tmp_path / "file")
    assert "bias (float32 [3], not float64 [3])" in said
    assert "convert dtypes after loading" in said


def test_a_tie_that_the_file_does_not_have_is_refused(tmp_path):
    def pair(tied: bool) -> nn.Sequential:
        pair = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        if tied:
            pair[1].weight = pair[0].weight
        return pair

    export_encoder(pair(tied=False), tmp_path / "two")
    assert "the encoder ties 0.weight and 1.weight" in refused(pair(tied=True), tmp_path / "two")
    export_encoder(tied := pair(tied=True), tmp_path / "one")
    load_encoder(fresh := pair(tied=False), tmp_path / "one")
    assert same(fresh, tied)


class WithExtra(nn.Linear):
    def get_extra_state(self) -> dict[str, int]:
        return {"steps": 3}


@pytest.mark.parametrize(
    ("encoder", "error", "said"),
    [
        (lambda x: x, TypeError, "encoder is a function, but must be an nn.Module"),
        (WithExtra(1, 1), TypeError, "encoder holds _extra_state, a dict, but only tensors"),
        (nn.LazyLinear(2), ValueError, "weight has no values yet"),
        (nn.Linear(2, 2, device="meta"), ValueError, "weight has no values yet"),
    ],
)
def test_encoders_that_cannot_be_exported_or_loaded(encoder, error, said, exported, tmp_path):
    with pytest.raises(error, match=said):
        export_encoder(encoder, tmp_path / "file")
    with pytest.raises(error, match=said):
        load_encoder(encoder, exported[1])
    assert not [*tmp_path.iterdir()]


def with_buffer(buffer: torch.Tensor) -> nn.Module:
    model = nn.Linear(1, 1)
    model.register_buffer("extra", buffer)
    return model


@pytest.mark.filterwarnings("ignore")  # torch warns of several kinds
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.eye(2).to_sparse(),
        lambda: torch.eye(2).to_sparse_csr(),
        lambda: torch.ones(2, dtype=torch.complex128),
        lambda: torch.ones(2, dtype=torch.complex32),
        lambda: torch.ones(2).to(torch.float8_e8m0fnu),
        lambda: torch.quantize_per_tensor(torch.ones(2), 0.5, 0, torch.qint8),
        lambda: torch.nested.nested_tensor([torch.ones(2)], layout=torch.jagged),
    ],
)
def test_tensors_that_the_format_does_not_store_are_refused_by_name(make, tmp_path):
    with pytest.raises(ValueError, match=r"encoder's extra is .*, which safetensors does not store; make it dense"):
        export_encoder(with_buffer(make()), tmp_path / "file")


@pytest.mark.parametrize(
    "buffer",
    [
        torch.ones(1).expand(3),
        torch.arange(6.0).unfold(0, 3, 1),
        torch.ones(3, dtype=torch.complex64).conj(),
        torch.ones(3).to(torch.float8_e4m3fn),
        torch.ones(3).to(torch.float8_e5m2),
        torch.ones(3, dtype=torch.uint64),
    ],
    ids=["expanded", "overlapping", "conjugate", "float8_e4m3", "float8_e5m2", "uint64"],
)
def test_buffers_of_any_other_kind_are_loaded(buffer, tmp_path):
    export_encoder(with_buffer(buffer), tmp_path / "file")
    for other in (torch.zeros(buffer.shape, dtype=buffer.dtype), torch.zeros_like(buffer[:1]).expand_as(buffer)):
        load_encoder(fresh := with_buffer(other), tmp_path / "file")
        assert torch.equal(fresh.get_buffer("extra").to(torch.complex64), buffer.to(torch.complex64))


@pytest.mark.parametrize(("name", "value"), [("weight", torch.nan), ("weight", -torch.inf), ("buffer", torch.nan)])
def test_weights_that_are_not_finite_are_refused(name, value, tmp_path):
    model = nn.Linear(2, 2)
    model.register_buffer("buffer", torch.zeros(2))
    model.state_dict()[name].view(-1)[0] = value
    with pytest.raises(ValueError, match=f"not finite in {name}, "):
        export_encoder(nn.DataParallel(model), tmp_path / "file")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    "metadata",
    [{"path": Path()}, {"lr": float("nan")}, {(1, 2): 3}, {"a": {1}}, {True: "a"}, {"a": [{1: 2}]}],
)
def test_metadata_that_json_does_not_take_is_refused(metadata, tmp_path):
    with pytest.raises(TypeError, match="metadata cannot be written as JSON"):
        export_encoder(nn.Linear(1, 1), tmp_path / "file", metadata)
    assert not [*tmp_path.iterdir()]


# ---- files -------------------------------------------------------------------------------------------------


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "file"
    export_encoder(nn.Linear(1, 1), path)
    before = path.read_bytes()

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        export_encoder(nn.Linear(2, 2), path)
    assert path.read_bytes() == before
    assert [*tmp_path.iterdir()] == [path]


def test_an_export_replaces_the_one_before(tmp_path):
    export_encoder(nn.Linear(1, 1), tmp_path / "file", {"a": 1})
    before = (tmp_path / "file").read_bytes()
    with open(tmp_path / "file", "rb") as reader:
        export_encoder(nn.Linear(1, 1), str(tmp_path / "file"), {"a": 2})
        assert reader.read() == before  # whoever reads it sees the old one or the new one, and no mixture
    assert read_metadata(str(tmp_path / "file")) == {"a": 2}
    assert [*tmp_path.iterdir()] == [tmp_path / "file"]


def test_a_long_name_is_written_or_refused_by_the_promised_sentence(tmp_path):
    export_encoder(nn.Linear(1, 1), tmp_path / ("x" * 255))
    assert [file.name for file in tmp_path.iterdir()] == ["x" * 255]
    with pytest.raises(OSError, match=r"cannot be written \(File name too long\), and keeps its old content"):
        export_encoder(nn.Linear(1, 1), tmp_path / ("x" * 256))
    with pytest.raises(FileNotFoundError, match="does not exist; name a file that export_encoder wrote"):
        load_encoder(nn.Linear(1, 1), tmp_path / ("x" * 256))


def test_no_folder_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(f"there is no folder {tmp_path / 'no'}")):
        export_encoder(nn.Linear(1, 1), tmp_path / "no" / "file")
    with pytest.raises(IsADirectoryError, match=re.escape(f"path is {tmp_path}, a folder")):
        export_encoder(nn.Linear(1, 1), tmp_path)
    assert "does not exist" in refused(nn.Linear(1, 1), tmp_path / "no", FileNotFoundError)
    assert "is a folder" in refused(nn.Linear(1, 1), tmp_path, IsADirectoryError)


def test_files_of_another_kind_are_refused_by_name_and_never_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "exploded",))

    model = nn.Linear(1, 1)
    torch.save({"weight": Bomb()}, tmp_path / "pickle")
    save_file(model.state_dict(), tmp_path / "plain")
    (tmp_path / "nothing").touch()
    (tmp_path / "text").write_text("a poem\n" * 99)
    for name in ("pickle", "plain", "nothing", "text"):
        assert f"{name} cannot be read as an exported encoder" in refused(model, tmp_path / name)
    assert not (tmp_path / "exploded").exists()


def test_a_truncated_file_is_refused(exported, tmp_path):
    content = exported[1].read_bytes()
    lengths = {*range(0, len(content), 37), *range(12), len(content) - 1}
    for length in sorted(lengths):
        (tmp_path / "file").write_bytes(content[:length])
        assert "file cannot be read as an exported encoder" in refused(Encoder(), tmp_path / "file")
    (tmp_path / "file").write_bytes(content + b"\0")
    refused(Encoder(), tmp_path / "file")


def test_a_flipped_byte_never_loads_another_encoder(exported, tmp_path):
    """Refused; or loaded all the same, where the byte means nothing: the padding of the header."""
    encoder, path = exported
    content, rng = path.read_bytes(), random.Random(0)
    refusals = harmless = 0
    for _ in range(200):
        damaged = bytearray(content)
        damaged[rng.randrange(len(content))] ^= rng.randrange(1, 256)
        (tmp_path / "file").write_bytes(damaged)
        fresh = Encoder()
        try:
            metadata = load_encoder(fresh, tmp_path / "file")
        except ValueError as error:
            refusals += str(tmp_path / "file") in str(error)
        else:
            assert same(fresh, encoder)
            assert metadata == read_metadata(path)
            harmless += 1
    assert refusals + harmless == 200
    assert harmless < 10


def test_a_checksum_covers_values_names_shapes_dtypes_and_metadata(tmp_path):
    model, path = nn.Linear(2, 2), tmp_path / "file"
    export_encoder(model, path, {"seed": 1})
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    tensors, entry = load_file(path), json.loads(header["__metadata__"][ENTRY])

    def forged(tensors: dict[str, Tensor], **changes: str) -> None:
        save_file(tensors, path, {ENTRY: json.dumps({**entry, **changes})})

    forged(tensors)
    load_encoder(model, path)
    weight, bias = tensors["weight"], tensors["bias"]
    for changed in (
        {"weight": weight + 1, "bias": bias},
        {"bias": weight, "weight": bias},
        {"weight": weight.reshape(4), "bias": bias},
        {"weight": weight.view(torch.int32), "bias": bias},
        {"weight": weight},
    ):
        forged(changed)
        assert "file is damaged: its content does not fit its checksum" in refused(model, path)
    forged(tensors, metadata='{"seed": 2}')
    assert "does not fit its checksum" in refused(model, path)


def test_without_safetensors_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.delitem(sys.modules, export_encoder.__module__)
    with pytest.raises(ImportError, match=re.escape("pip install 'jepa_ssl[export]'")):
        import_module(export_encoder.__module__)
