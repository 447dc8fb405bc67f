"""What is compared with what: arms, families, sizes, seeds, and how much of everything."""

from dataclasses import dataclass, field
from typing import Literal

FAMILIES = ("set_cover", "auction", "independent_set", "facility", "random")
KNOWABLE = FAMILIES[:4]  # where x can be predicted: random LPs have many optima, and none knows which one is the label
SEEN = (10, 30, 100)  # solver steps after which a network that sees states is shown one
DIM = 64
FLOOR = 100  # what is added to the seed of the same config run a second time


@dataclass(frozen=True)
class Arm:
    """A way to make a trunk before the task is trained.

    `training` is what it is trained on, without labels:

    - `none`: nothing, it stays at its random initialisation;
    - `ema`, `simsiam`: hide 30% of the nodes, and predict what an EMA (the network itself) makes of the whole LP;
    - `state`: predict the state after 100 solver steps, with no regulariser;
    - `later`: `jepa_ssl.recipes.later_state`;
    - `kkt`: the KKT residual; `joint`: that and `later` together, gradients balanced; `then`: first `later`, then that.
    """

    label: str
    training: Literal["none", "ema", "simsiam", "state", "later", "kkt", "joint", "then"]
    sees_states: bool = False
    regularizer_weight: float = 0.0
    target: Literal["embedding", "numbers"] = "embedding"
    seed_offset: int = 0


ARMS = {
    "random": Arm("random", "none"),
    "random_again": Arm("random, other seeds", "none", seed_offset=FLOOR),
    "random_s": Arm("random, sees states", "none", sees_states=True),
    "ema": Arm("masking, EMA (the spec's)", "ema"),
    "simsiam": Arm("masking, SimSiam (the spec's)", "simsiam"),
    "ema_vicreg": Arm("masking, EMA and VICReg", "ema", regularizer_weight=0.2),
    "ema_s": Arm("masking, EMA, sees states", "ema", sees_states=True),
    "state": Arm("state of 100 steps", "state"),
    "later_lp": Arm("later state, sees the LP alone", "later", regularizer_weight=0.2),
    "later": Arm("later state from an early one", "later", sees_states=True, regularizer_weight=0.2),
    "later_again": Arm("later state, other seeds", "later", True, 0.2, seed_offset=FLOOR),
    "later_light": Arm("later state, VICReg at a quarter", "later", True, 0.05),
    "later_plain": Arm("later state, without VICReg", "later", sees_states=True),
    "later_numbers": Arm("later state, its numbers as target", "later", True, 0.2, target="numbers"),
    "kkt": Arm("KKT", "kkt"),
    "kkt_s": Arm("KKT, sees states", "kkt", sees_states=True),
    "joint": Arm("KKT and later state together", "joint", True, 0.2),
    "then": Arm("later state, then KKT", "then", True, 0.2),
}
RANDOM = tuple(name for name, arm in ARMS.items() if arm.training == "none")
RECOMMENDED = "later"
ABLATIONS = ("ema_vicreg", "ema_s", "state", "later_lp", "later_light", "later_plain", "later_numbers")

# A step's time on one thread, the KKT loss's being 1; `python -m examples.study cost` measures them.
COSTS = {"ema": 1.5, "simsiam": 1.5, "state": 1.2, "later": 1.22, "kkt": 1.0, "joint": 2.17, "then": 1.11}
JOINT_SHARE = 0.3  # of the KKT loss's gradient on the trunk


@dataclass(frozen=True)
class Plan:
    """How much of everything. Sizes are numbers of variables, about."""

    seeds: int = 5
    few_seeds: int = 3  # of what takes long: the largest size, families left out, other numbers of LPs, the MLP
    budget: int = 600  # steps of KKT alone, by whose time all pretraining is measured
    pretraining_lps: dict[int, int] = field(default_factory=lambda: {20: 1000, 50: 250})
    labels: dict[int, tuple[int, ...]] = field(
        default_factory=lambda: {20: (10, 50, 300), 50: (10, 50, 300), 200: (10, 50)}
    )
    test_lps: dict[int, int] = field(default_factory=lambda: {20: 100, 50: 60, 200: 30})
    few_lps: int = 32
    fewer_or_more: tuple[int, ...] = (8, 128)  # in their place, to see how many LPs a start is worth
    finetuning_steps: int = 200
    measured_every: int = 10
    supervised_steps: int = 400
    solved_lps: int = 12  # of each family, for warm starts
    solver_steps: int = 4000  # at most, for warm starts
    flat_lps: int = 2000
    flat_steps: int = 600

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(self.labels)


SCALES = {
    "full": Plan(),
    # Everything once, in a minute or two: for a test, not for a result.
    "small": Plan(
        seeds=2,
        few_seeds=1,
        budget=8,
        pretraining_lps={20: 20, 50: 5},
        labels={20: (5, 10)},
        test_lps={20: 5},
        few_lps=8,
        fewer_or_more=(2, 16),
        finetuning_steps=4,
        measured_every=2,
        supervised_steps=4,
        solved_lps=2,
        solver_steps=400,
        flat_lps=40,
        flat_steps=4,
    ),
}

FEW_BATCH = {20: 8, 50: 4, 200: 2}  # LPs of a step, so that steps of all sizes take about the same time

# (arm, is the trunk frozen) of the fine-tuning at each size.
FINETUNED = {
    20: [
        *((arm, False) for arm in ("random", "random_again", "random_s", "ema", "simsiam", "later", "kkt_s", "then")),
        ("later", True),
    ],
    50: [(arm, False) for arm in ("random", "random_again", "random_s", "later", "kkt_s", "then")],
    200: [(arm, False) for arm in ("random", "random_s", "later")],
}
FEWER_OR_MORE = ("random", "random_s", "later")
EQUAL_COMPUTE = ("kkt", "kkt_s", "joint", "then")  # trained with the heads, for as long as each other
FLAT = ("random", "random_again", "random_s", "ema", "simsiam", "later", "kkt_s")
FILES = ("random", "random_s", "ema", "simsiam", "kkt", "kkt_s", "later_lp", "later")  # probed on real LPs
WARM_STARTS = ("states", "random_s", "kkt_s", "later")  # "states": a probe of what is shown, without a network
