"""What is compared with what: arms, families, sizes, seeds, and how much of everything."""

from dataclasses import dataclass, field
from typing import Literal

FAMILIES = ("set_cover", "auction", "independent_set", "facility", "random")
KNOWABLE = FAMILIES[:4]  # where x can be predicted: random LPs have many optima, and none knows which one is the label
SEEN = (10, 30, 100)  # solver steps after which a network that sees states is shown one
DIM = 64
STREAMS = ("constraint", "variable")
FLOOR = 100  # what is added to the seed of the same config run a second time

Training = Literal["none", "ema", "simsiam", "later", "reconstruct", "symmetries", "kkt", "then", "joint", "multi"]
JEPA_RATIO, JEPA_WEIGHT = 1.0, 0.1  # of "joint": of gradients, and without a balance of losses
JOINT = 2.22  # the budget with which "joint" has as many steps as KKT alone


@dataclass(frozen=True)
class Arm:
    """A way to make a trunk before the task is trained.

    Args:
        label: its name in tables.
        training: how the trunk is trained, without labels.
            "none": not at all; it stays at its random initialisation.
            "ema", "simsiam": hide 30% of the nodes, and predict their embeddings of the whole LP by an EMA, or by the
            network itself.
            "later": `jepa_ssl.recipes.later_state`.
            "reconstruct": hide 30% of the nodes, and predict their features.
            "symmetries": embed an LP and an equivalent one alike, with VICReg.
            "kkt": the KKT residual.
            "then": first "later", then "kkt", each for half of the steps.
            "joint": "kkt" and "later" together.
            "multi": "later" after a quarter, half and all of the rounds; earlier rounds predict earlier states.
        sees_states: does it see the states after `SEEN` solver steps, or the LP alone?
        rounds: of the solver-shaped trunk. 0 is the spec's trunk, two rounds of half-convolutions.
        regularizer_weight: of VICReg, for "later" and "symmetries".
        target: does "later" predict the state's embedding or its numbers?
        horizon: solver steps to the state that "later" predicts.
        restart_every: solver steps from one restart to the next, for that state.
        every: "joint" adds the term to every k-th step.
        balanced: does "joint" hold the ratio of the gradients at `JEPA_RATIO`, or weigh the loss by `JEPA_WEIGHT`?
        larger: does it train on some larger LPs too?
        random_rounds: does each step take from half to one and a half times as many rounds?
        budget: time of its pretraining over that of the plan.
        seeds: how many runs. The first run of every arm has seed 0.
    """

    label: str
    training: Training
    sees_states: bool = False
    rounds: int = 8
    regularizer_weight: float = 0.0
    target: Literal["embedding", "numbers"] = "embedding"
    horizon: int = 300
    restart_every: int | None = 100
    every: int = 1
    balanced: bool = True
    larger: bool = False
    random_rounds: bool = False
    budget: float = 1.0
    seeds: int = 2
    seed_offset: int = 0


ARMS = {
    # The spec's trunk
    "random": Arm("convolutions: random", "none", rounds=0, seeds=3),
    "random_s": Arm("convolutions: random, sees states", "none", True, rounds=0, seeds=3),
    "kkt": Arm("convolutions: KKT", "kkt", rounds=0),
    "kkt_s": Arm("convolutions: KKT, sees states", "kkt", True, rounds=0, seeds=3),
    "ema": Arm("convolutions: masking, EMA (the spec's)", "ema", rounds=0, seeds=1),
    "later_lp": Arm("convolutions: later state", "later", rounds=0),
    "later": Arm("convolutions: later state, sees states", "later", True, rounds=0),
    "then": Arm("convolutions: later state, then KKT, sees states", "then", True, rounds=0),
    # The solver-shaped trunk that sees the LP alone
    "solver_random": Arm("solver: random", "none", seeds=3),
    "solver_random_long": Arm("solver: random, 16 rounds", "none", rounds=16, seeds=1),
    "solver_ema": Arm("solver: masking, EMA (the spec's)", "ema"),
    "solver_simsiam": Arm("solver: masking, SimSiam (the spec's)", "simsiam", seeds=1),
    "solver_reconstruct": Arm("solver: masked reconstruction", "reconstruct"),
    "solver_symmetries": Arm("solver: symmetries, VICReg", "symmetries", regularizer_weight=1.0),
    "solver_symmetries_light": Arm(
        "solver: symmetries, VICReg at a tenth", "symmetries", regularizer_weight=0.1, seeds=1
    ),
    "solver_symmetries_strong": Arm(
        "solver: symmetries, VICReg ten times", "symmetries", regularizer_weight=10.0, seeds=1
    ),
    "solver_kkt": Arm("solver: KKT", "kkt"),
    "solver_lp": Arm("solver: later state", "later", seeds=3),
    "solver_lp_again": Arm("solver: later state, other seeds", "later", seed_offset=FLOOR, seeds=1),
    "solver_lp_vicreg": Arm("solver: later state, VICReg", "later", regularizer_weight=0.2),
    "solver_lp_light": Arm("solver: later state, VICReg at a quarter", "later", regularizer_weight=0.05, seeds=1),
    "solver_lp_numbers": Arm("solver: later state, its numbers as target", "later", target="numbers"),
    "solver_lp_100": Arm("solver: state of 100 steps", "later", horizon=100, seeds=1),
    "solver_lp_1000": Arm("solver: state of 1000 steps", "later", horizon=1000, seeds=1),
    "solver_lp_multi": Arm("solver: states of 75, 150 and 300 steps after 2, 4 and 8 rounds", "multi", seeds=1),
    "solver_lp_no_restarts": Arm("solver: later state, no restarts", "later", restart_every=None, seeds=1),
    "solver_lp_long": Arm(
        "solver: later state, 16 rounds, three times as long", "later", rounds=16, budget=3.0, seeds=3
    ),
    "solver_lp_random_rounds": Arm("solver: later state, 4 to 12 rounds", "later", random_rounds=True, seeds=1),
    "solver_lp_larger": Arm(
        "solver: later state, 8 to 24 rounds, larger LPs too, three times as long",
        "later",
        rounds=16,
        larger=True,
        random_rounds=True,
        budget=3.0,
        seeds=1,
    ),
    # KKT, and the term at every k-th of as many steps
    "solver_joint": Arm("solver: KKT and later state", "joint", budget=JOINT),
    "solver_joint_constant": Arm(
        "solver: KKT and later state, constant weight", "joint", balanced=False, budget=JOINT, seeds=1
    ),
    "solver_joint_half": Arm("solver: KKT, later state at every 2nd step", "joint", every=2, budget=JOINT),
    "solver_joint_quarter": Arm("solver: KKT, later state at every 4th step", "joint", every=4, budget=JOINT),
    # And that sees states
    "solver_random_s": Arm("solver: random, sees states", "none", True, seeds=3),
    "solver_kkt_s": Arm("solver: KKT, sees states", "kkt", True),
    "solver_later": Arm("solver: later state, sees states", "later", True, seeds=3),
    "solver_later_vicreg": Arm("solver: later state, VICReg, sees states", "later", True, regularizer_weight=0.2),
    "solver_numbers": Arm("solver: later state, its numbers, sees states", "later", True, target="numbers"),
    "solver_later_1000": Arm("solver: state of 1000 steps, sees states", "later", True, horizon=1000, seeds=1),
    "solver_reconstruct_s": Arm("solver: masked reconstruction, sees states", "reconstruct", True, seeds=1),
    "solver_ema_s": Arm("solver: masking, EMA (the spec's), sees states", "ema", True, seeds=1),
    "solver_then": Arm("solver: later state, then KKT, sees states", "then", True),
}
LABEL_FREE = [name for name, arm in ARMS.items() if arm.training != "none"]

# A step's time on one thread, that of KKT alone on the spec's trunk being 1; `cost` of the command line measures them.
COSTS = {"ema": 1.5, "simsiam": 1.5, "reconstruct": 1.1, "symmetries": 2.2, "later": 1.22, "kkt": 1.0, "then": 1.11,
         "joint": JOINT, "multi": 2.14}  # fmt: skip
ROUND = 0.28  # of the solver-shaped trunk, forward and back


def cost(arm: Arm) -> float:
    """A pretraining step of the arm, in KKT steps of the spec's trunk.

    >>> cost(ARMS["kkt"]), round(cost(ARMS["solver_kkt"]), 2)
    (1.0, 2.24)
    """
    return COSTS[arm.training] * (ROUND * arm.rounds or 1.0)


@dataclass(frozen=True)
class Plan:
    """How much of everything. Sizes are numbers of variables, about."""

    seeds: int = 3  # of pretraining and probe; an arm may have fewer, and what takes long has one
    budget: int = 1800  # steps of KKT alone on the spec's trunk, by whose time all pretraining is measured
    pretraining_lps: dict[int, int] = field(default_factory=lambda: {20: 1000, 50: 250})
    larger_lps: dict[int, int] = field(default_factory=lambda: {100: 100})
    labels: dict[int, tuple[int, ...]] = field(
        default_factory=lambda: {20: (10, 50, 300), 50: (10, 50, 300), 200: (10, 50), 30: (10, 30)}
    )
    test_lps: dict[int, int] = field(default_factory=lambda: {20: 100, 50: 60, 200: 30, 30: 60})
    fresh_size: int = 30  # of LPs that nothing was chosen by
    validation_lps: int = 64  # that say when supervision stops; labelled, and not counted
    few_lps: int = 32
    finetuning_steps: int = 200
    measured_every: int = 10
    supervised_steps: int = 4000  # at most
    patience: int = 16  # validations, each 25 steps
    solved_lps: int = 12  # of each family, for warm starts
    solver_steps: int = 4000  # at most, for warm starts

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(n for n in self.labels if n != self.fresh_size)


SCALES = {
    "full": Plan(),
    # Everything once, in a minute or two: for a test, not for a result.
    "small": Plan(
        budget=8,
        pretraining_lps={20: 20, 50: 5},
        larger_lps={100: 5},
        labels={20: (5, 10), 30: (5, 10)},
        test_lps={20: 5, 30: 5},
        validation_lps=5,
        few_lps=8,
        finetuning_steps=4,
        measured_every=2,
        supervised_steps=25,
        solved_lps=2,
        solver_steps=400,
    ),
}

FEW_BATCH = {20: 8, 50: 4, 200: 2}  # LPs of a step, so that steps of all sizes take about the same time

# At use, of arms that are probed.
MORE_ROUNDS = {"solver_random": (12,), "solver_lp": (12, 16), "solver_lp_random_rounds": (12, 16),
               "solver_lp_long": (24, 32), "solver_lp_larger": (24, 32)}  # fmt: skip
SUPERVISED = ("solver_random", "solver_random_long", "solver_lp")  # what supervision starts from
FINETUNED = ("random", "random_s", "solver_random", "solver_random_s", "kkt_s", "solver_lp", "solver_later")
EQUAL_COMPUTE = (
    "kkt",
    "kkt_s",
    "then",
    "solver_kkt",
    "solver_kkt_s",
    "solver_then",
)  # trained with heads, on the mixture
JOINT_ARMS = (
    "solver_kkt",
    "solver_joint",
    "solver_joint_half",
    "solver_joint_quarter",
    "solver_joint_constant",
)  # with as many KKT steps each
FILES = ("random", "random_s", "kkt_s", "later", "solver_random", "solver_random_s", "solver_kkt_s", "solver_lp",
         "solver_later", "solver_lp_long")  # probed on real LPs  # fmt: skip
FRESH = ("shown_states", "random_s", "later", "solver_random_s", "solver_later", "solver_lp", "solver_lp_long")
WARM_STARTS = ("states", "kkt_s", "solver_lp", "solver_later")  # "states": a probe of what is shown, without a network
SHIPPED = "solver_later"
