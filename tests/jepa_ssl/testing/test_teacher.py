"""`check_teacher` passes the teachers of the package, and finds every planted fault."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jepa_ssl import EMATeacher, LinearSchedule, SharedTeacher, StopGradTeacher, TargetNetwork
from jepa_ssl.protocols import Teacher, detached
from jepa_ssl.testing import check_teacher

FLAT = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


class Encoder(nn.Module):
    """With dropout, BatchNorm, and buffers that are no numbers to average."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5))
        self.register_buffer("mask", torch.ones(8, dtype=torch.bool))
        self.register_buffer("constant", torch.ones(8), persistent=False)

    def forward(self, flat: Tensor) -> dict[str, Tensor]:
        return {"instance": self.trunk(flat) * self.constant}


@pytest.mark.parametrize(
    "make",
    [
        EMATeacher,
        lambda e: EMATeacher(e, LinearSchedule(0.9, 1.0, 10), warmup=3),
        lambda e: EMATeacher(e, 1.0),
        lambda e: EMATeacher(e, 0.0),
        lambda e: StopGradTeacher(),
        lambda e: SharedTeacher(),
    ],
    ids=["EMA", "with a schedule", "that never moves", "that follows at once", "stop-gradient", "shared"],
)
def test_the_teachers_of_the_package_pass(make: Any):
    encoder = Encoder()
    check_teacher(make(encoder), encoder, FLAT)


@pytest.mark.parametrize("learned", [False, True])
def test_a_network_of_its_own_passes_on_its_own_target(learned: bool):
    check_teacher(TargetNetwork({"instance": (2, 8)}, learned=learned), Encoder(), FLAT,
                  target={"instance": torch.randn(5, 2)})  # fmt: skip


def test_an_encoder_that_is_wrapped_or_compiled_passes():
    encoder = nn.DataParallel(Encoder())
    check_teacher(EMATeacher(encoder), encoder, FLAT)


def test_encoders_with_indices_masks_and_half_precision_pass():
    class Attends(nn.Module):
        places: Tensor
        mask: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(6, 8)
            self.register_buffer("places", torch.arange(6))
            self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(6))

        def forward(self, flat: Tensor) -> dict[str, Tensor]:
            return {"instance": (flat @ self.embed(self.places)) + self.mask.isinf().sum()}

    encoder = Attends()
    check_teacher(EMATeacher(encoder), encoder, FLAT)
    half = Encoder().bfloat16()
    check_teacher(EMATeacher(half), half, FLAT.bfloat16())


def test_neither_is_changed():
    encoder = Encoder()
    teacher = EMATeacher(encoder)
    before = copy.deepcopy({**encoder.state_dict(), **teacher.state_dict()})
    check_teacher(teacher, encoder, FLAT)
    for name, tensor in {**encoder.state_dict(), **teacher.state_dict()}.items():
        assert torch.equal(tensor, before[name]), name


class Copy(nn.Module):
    """A plain EMA teacher as one writes it in ten lines, and its faults below."""

    learns = False

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.target_model = copy.deepcopy(encoder).requires_grad_(False)

    def train(self, mode: bool = True) -> "Copy":
        super().train(mode)
        self.target_model.eval()
        return self

    def forward(self, encoder: Any, target: Any) -> Any:
        return self.target_model(target)

    def follow(self, mine: Tensor, theirs: Tensor) -> None:
        if mine.is_floating_point():
            mine.lerp_(theirs, 0.5)
        else:
            mine.copy_(theirs)

    @torch.no_grad()
    def update(self, encoder: nn.Module) -> None:
        theirs = encoder.state_dict()
        for name, mine in self.target_model.state_dict().items():
            self.follow(mine, theirs[name])


class Awake(Copy):
    def train(self, mode: bool = True) -> Copy:
        return super(Copy, self).train(mode)


class BatchStatistics(Copy):
    """BatchNorm learns from the teacher's passes; dropout sleeps."""

    def train(self, mode: bool = True) -> Copy:
        super().train(mode)
        self.target_model.get_submodule("trunk.1").train()
        return self


class ParametersOnly(Copy):
    @torch.no_grad()
    def update(self, encoder: nn.Module) -> None:
        for mine, theirs in zip(self.target_model.parameters(), encoder.parameters(), strict=True):
            mine.lerp_(theirs, 0.5)


class IntegersAveraged(Copy):
    def follow(self, mine: Tensor, theirs: Tensor) -> None:
        mine.mul_(0) if mine.dtype == torch.int64 else super().follow(mine, theirs)


class SomeNames(Copy):
    """Names that do not match are passed over in silence."""

    @torch.no_grad()
    def update(self, encoder: nn.Module) -> None:
        theirs = {f"module.{name}" if "0" in name else name: tensor for name, tensor in encoder.state_dict().items()}
        for name, mine in self.target_model.state_dict().items():
            if name in theirs:
                self.follow(mine, theirs[name])


class OtherNames(Copy):
    """No name matches, and nothing is said."""

    def update(self, encoder: nn.Module) -> None:
        theirs = {f"module.{name}": tensor for name, tensor in encoder.state_dict().items()}
        for name, mine in self.target_model.state_dict().items():
            if name in theirs:
                self.follow(mine, theirs[name])


class WithGradient(Copy):
    def forward(self, encoder: Any, target: Any) -> Any:
        return encoder(target)


class Trainable(Copy):
    def __init__(self, encoder: nn.Module) -> None:
        super().__init__(encoder)
        self.target_model.requires_grad_(True)

    def forward(self, encoder: Any, target: Any) -> Any:
        return detached(self.target_model(target))


class MovesInThePass(Copy):
    def forward(self, encoder: Any, target: Any) -> Any:
        made = self.target_model(target)
        self.update(encoder)
        return made


class MovesTheEncoder(Copy):
    @torch.no_grad()
    def update(self, encoder: nn.Module) -> None:
        super().update(encoder)
        for parameter in encoder.parameters():
            parameter.zero_()


class Forgetful(Copy):
    """Part of what moves is no buffer."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__(encoder)
        self.scale = torch.ones(())

    def forward(self, encoder: Any, target: Any) -> Any:
        return {stream: z * self.scale for stream, z in super().forward(encoder, target).items()}

    def update(self, encoder: nn.Module) -> None:
        super().update(encoder)
        self.scale = self.scale * 2


class OtherStreams(Copy):
    def forward(self, encoder: Any, target: Any) -> Any:
        return {"vector": super().forward(encoder, target)["instance"]}


@pytest.mark.parametrize(
    ("teacher", "sentence"),
    [
        (Awake, "two passes over one batch give different targets: dropout is active"),
        (BatchStatistics, r"a pass over a batch moves \['target_model.trunk.1.num_batches_tracked'.*of the teacher"),
        (
            ParametersOnly,
            r"update does not move \['trunk.1.num_batches_tracked', .*'trunk.1.running_var'\] of the teacher, but",
        ),
        (IntegersAveraged, r"update does not move \['trunk.1.num_batches_tracked'\]"),
        (SomeNames, r"update does not move \['trunk.0.bias', 'trunk.0.weight'\] .* without the prefixes"),
        (OtherNames, "update moves nothing of the teacher's target_model"),
        (WithGradient, r"gradients flow into the targets of \['instance'\]"),
        (Trainable, r"the teacher's \['target_model.trunk.0.bias', .* require a gradient"),
        (MovesInThePass, "only update may move it"),
        (MovesTheEncoder, r"update moves \['trunk.0.bias', .*of the encoder"),
        (Forgetful, "loaded from another's state_dict gives other targets"),
        (OtherStreams, r"returns \{'vector': \[5, 8\]\}, but the encoder \{'instance': \[5, 8\]\}"),
    ],
)
def test_a_planted_fault_is_found(teacher: type[Copy], sentence: str):
    encoder = Encoder()
    made: Teacher = teacher(encoder)
    with pytest.raises(AssertionError, match=sentence):
        check_teacher(made, encoder, FLAT)


def test_the_plain_copy_passes():
    encoder = Encoder()
    check_teacher(Copy(encoder), encoder, FLAT)


def test_a_teacher_that_moves_the_encoder_in_its_pass_is_found():
    class Meddling:
        learns = False

        def __call__(self, encoder: Any, target: Any) -> Any:
            with torch.no_grad():
                encoder.trunk[0].weight.add_(1.0)
                return encoder(target)

        def update(self, encoder: Any) -> None: ...

    with pytest.raises(AssertionError, match=r"a pass over a batch moves \['trunk.0.weight'\] of the encoder"):
        check_teacher(Meddling(), Encoder(), FLAT)
