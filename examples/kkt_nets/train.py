"""Train a KKT net on LPs: KKT alone, JEPA first, JEPA first and then both, or both from the start.

python train.py --use_bipartite_graphs --use_jepa --jepa_mode ema
"""

import os
import sys
import time
import warnings
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import checkpoints
import distributed
import random_state
import torch
from atomic import remove_unfinished, writable_folder
from dataset import LPDataset, batches, epoch_order, make_loader
from deal import Deal
from devices import device
from engine import Engine
from interrupts import Interrupted, Interrupts
from jepa_adapter import KKTJepa
from meter import Meter, NonFiniteLossError
from options import parse
from paths import build, kkt, largest
from runlog import NoLog, RunLog, check_wandb_mode
from splits import SPLITS, open_split
from torch import Tensor
from tqdm import tqdm

from jepa_ssl import JointSchedule, processes
from jepa_ssl.diagnostics import describe
from jepa_ssl.monitor import CollapseWarning

FITTED_LPS = 512  # of how many training LPs the views take statistics
GRADIENTS_EVERY = 200  # steps; each look costs about as much as one


class Run:
    """One training run: its network, its JEPA term if it has one, its optimizer, and where it stands."""

    def __init__(self, args: Namespace) -> None:
        self.args = args = Namespace(**{**vars(args), "resume": _to_resume(args)})
        # A checkpoint that cannot be continued is refused before anything is generated or written.
        state = checkpoints.load(args.resume) if args.resume else None
        if state:
            checkpoints.check_same_run(state, args, args.resume)
        check_wandb_mode()
        self.is_first = distributed.is_first()  # which alone writes
        self.folder = _folder(args, state) if self.is_first else Path(os.devnull)
        self.device, self.deal = device(args.devices), Deal.of(args)
        # Threads that wait for each other cost small networks more than they bring, most of all on a busy machine.
        torch.set_num_threads(args.num_threads)
        # The test LPs are not trained on, but an MLP has to be wide enough for them.
        needed = [split for split in SPLITS if split != "test" or not args.use_bipartite_graphs]
        with distributed.first_one_first():
            datasets = [LPDataset(open_split(args, split)) for split in needed]
        self.data, self.validation, *_ = datasets
        if args.lp_files:  # all are looked at now: an unusable one must not end a run in mid-epoch
            for data in (self.data, self.validation):
                for i in range(len(data)):
                    data[i]
        random_state.seed(args.seed)
        self.model, self.collate = build(args, *largest(*datasets))
        self.model.to(self.device)
        self.steps = args.epochs * len(self.deal.steps(range(len(self.data))))  # of the whole run
        self.jepa = KKTJepa(self.model, args, self.device, self.steps, self._log_alarm) if args.use_jepa else None
        self.engine = Engine(self.model, self.jepa, args, self.device, self.deal)
        self.schedule = self.jepa.schedule if self.jepa else JointSchedule(jepa_weight=0.0)
        added = self.jepa.parameters() if self.jepa else ()
        self.optimizer = torch.optim.Adam([*self.model.parameters(), *added], lr=args.lr)
        self.epoch, self.taken, self.step, self.best = 0, 0, 0, float("inf")
        self.run_id, self.rows = None, 0
        self.meter = Meter(self.data.name)
        self.log: Any = None
        self.bar: Any = None
        if state:
            self._restore(state)
        elif self.jepa:
            some = batches(range(min(len(self.data), FITTED_LPS)), args.batch_size)
            self.jepa.prepare(self._batches(self.data, some))

    def train(self, interrupts: Interrupts | None = None) -> None:
        """Goes on to the last epoch, or until `interrupts` has a signal."""
        self.interrupts = interrupts or Interrupts()
        bar = tqdm(initial=self.step, total=self.steps, unit="step", dynamic_ncols=True)
        earlier = Path(self.args.resume).parent if self.args.resume else None
        log: Any = NoLog()
        if self.is_first:
            log = RunLog(self.folder, vars(self.args), self.run_id, earlier, self.rows)
            remove_unfinished(self.folder)  # the log has made sure that no other run writes there
        with bar, log, warnings.catch_warnings():
            warnings.simplefilter("ignore", CollapseWarning)  # it is said above the progress bar, not across it
            self.log, self.bar, self.run_id = log, bar, log.run_id
            self.interrupts.wait()
            while self.epoch < self.args.epochs:
                bar.set_description(f"epoch {self.epoch + 1}/{self.args.epochs}")
                self._train_epoch()
                pretraining = self.schedule.is_pretraining(self.epoch)
                self.epoch, self.taken = self.epoch + 1, 0
                # In an epoch of JEPA alone the heads are not trained: their KKT loss would say nothing.
                improved = not pretraining and self._validate()
                self._save(*(["best.pt"] if improved else []), "last.pt")
                if self.epoch < self.args.epochs:
                    self._stop_if_asked(is_saved=True)

    def _train_epoch(self) -> None:
        weights = self.schedule(self.epoch)
        order = self.deal.steps(epoch_order(len(self.data), self.args.seed, self.epoch))[self.taken :]
        loaded = self._batches(self.data, [piece for instances in order for piece in self.deal.own(instances)])
        self.model.train()
        for instances in order:
            self.optimizer.zero_grad()
            loss = self.engine.backward(
                loaded, instances, weights,
                epoch=self.epoch, step=self.step, watch=self.step % GRADIENTS_EVERY == 0,
            )  # fmt: skip
            self.optimizer.step()
            if self.jepa:
                self.jepa.update()
            self.step, self.taken = self.step + 1, self.taken + 1

            self.meter.add(self.step, instances, loss.losses, loss.embeddings)
            self.bar.update()
            if self.step % self.args.log_every == 0:
                row, embeddings = self.meter.read()
                row |= {f"train/{name}": float(value) for name, value in describe(embeddings).items()}
                self.log({"epoch": self.epoch, **row}, self.step)
                self.bar.set_postfix(_short(row))
            due = self.args.checkpoint_every and self.step % self.args.checkpoint_every == 0
            if due:
                self._save("last.pt")
            self._stop_if_asked(is_saved=due)
        self.meter.read()  # the losses since the last row are not logged, but they are checked

    @torch.no_grad()
    def _validate(self) -> bool:
        """Logs the mean KKT loss of the validation LPs; is it the best so far?"""
        self.model.eval()
        own = range(self.deal.rank, len(self.validation), self.deal.processes)
        order = batches(own, self.args.batch_size)
        meter = Meter(self.validation.name)
        total = torch.zeros((), device=self.device)
        for instances, batch in zip(order, self._batches(self.validation, order), strict=True):
            loss, terms = kkt(self.model, batch, self.args)
            meter.add(self.step, instances, {"val/loss_kkt": loss, **terms}, None)
            total += loss * len(batch.b)
        meter.read()  # for its check alone: the mean is over LPs, not over batches
        loss = processes.all_reduce_sum(total, training=True).item() / len(self.validation)
        self.log({"epoch": self.epoch - 1, "val/loss_kkt": loss}, self.step)
        self.bar.write(f"epoch {self.epoch}: validation KKT {loss:.3e}", file=sys.stderr)
        improved = loss < self.best
        self.best = min(loss, self.best)
        return improved

    def _log_alarm(self, row: dict[str, Any], step: int) -> None:
        self.log({"epoch": self.epoch, **row}, step)
        if "monitor/warning" in row:
            self.bar.write(f"warning: {row['monitor/warning']}", file=sys.stderr)

    def _batches(self, data: LPDataset, order: list[list[int]]):
        for batch in make_loader(data, self.collate, order, self.args.num_workers):
            yield type(batch)(*(part.to(self.device) for part in batch))

    def _check_weights(self) -> None:
        added = self.jepa.parameters() if self.jepa else ()
        named = [*self.model.named_parameters(), *(("of projector and predictor", weights) for weights in added)]
        for name, weights in named:
            if not weights.isfinite().all():
                raise NonFiniteLossError(
                    f"the weights {name} are not finite after step {self.step}; lower --lr. "
                    f"The checkpoints hold an earlier state."
                )

    def _stop_if_asked(self, is_saved: bool) -> None:
        """Ends the run with a checkpoint if a signal has come."""
        signal = self.interrupts.agreed()
        if signal:
            if not is_saved:
                self._save("last.pt")
            distributed.wait()  # none ends before the first one has written
            raise Interrupted(signal, f"after step {self.step}; go on with --resume {self.folder / 'last.pt'}")

    def _save(self, *names: str) -> None:
        self._check_weights()
        state = self._state(random_state.of_all(self.device))
        if self.is_first:
            self.log.sync()
            for name in names:
                checkpoints.save(self.folder / name, state)

    def _state(self, random_states: dict[str, Tensor]) -> dict[str, Any]:
        return {
            "epoch": self.epoch,  # how many are finished
            "taken": self.taken,  # steps of the one after
            "step": self.step,
            "best": self.best,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "args": vars(self.args),
            "jepa": self.jepa.state_dict() if self.jepa else None,
            "rng": random_states,
            "meter": self.meter.state_dict(),
            "rows": self.log.rows,
            "run_id": self.run_id,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        for name in ("epoch", "taken", "step", "best", "rows", "run_id"):
            setattr(self, name, state[name])
        try:
            self.model.load_state_dict(state["model"])
            if self.jepa and not self.jepa.load_state_dict(state["jepa"]):
                print(f"{self.args.resume} has no teacher: it starts from the online weights.", file=sys.stderr)
            self.optimizer.load_state_dict(state["optimizer"])
            self.meter.load_state_dict(state["meter"], self.device)
            random_state.restore(state["rng"], self.args.seed, self.device)
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.args.resume} is of another model: {error} Resume with the flags of its run."
            ) from None
        best = Path(self.args.resume).with_name("best.pt")
        if self.is_first and self.folder.resolve() != best.parent.resolve() and best.exists():
            found = checkpoints.load(best)
            if found["step"] <= self.step:  # in another folder, too, there is a best one from the start
                checkpoints.save(self.folder / "best.pt", found)


def _to_resume(args: Namespace) -> str | None:
    """The checkpoint that `--resume` names; for `auto`, that of the run in `--output_dir`, if it holds one."""
    if args.resume != "auto":
        return args.resume
    last, best = (Path(args.output_dir) / name for name in ("last.pt", "best.pt"))
    if best.exists() and not last.exists():  # it was killed between the first two that it wrote, which are the same
        checkpoints.save(last, checkpoints.load(best))
    return str(last) if last.exists() else None


def _folder(args: Namespace, state: dict[str, Any] | None) -> Path:
    """The run's folder, made and found writable. The run that it may hold already is continued, never overwritten."""
    resumed = Path(args.resume).parent if args.resume else None
    if args.output_dir:
        folder = Path(args.output_dir)
    elif resumed:
        folder = resumed
    else:
        path, mode = "gnn" if args.use_bipartite_graphs else "mlp", args.jepa_mode if args.use_jepa else "kkt"
        # With the process, for two runs may start in the same second.
        folder = Path("exps") / f"{path}-{mode}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    is_continued = resumed is not None and folder.resolve() == resumed.resolve()
    if not is_continued and any((folder / name).exists() for name in ("last.pt", "best.pt")):
        raise FileExistsError(f"--output_dir {folder} holds a run already; continue it with --resume, or name another.")
    last = folder / "last.pt"
    if state and is_continued and last.exists() and not last.samefile(args.resume):
        seen = checkpoints.load(last)["step"]
        if seen > state["step"]:
            raise ValueError(
                f"--resume {args.resume} has taken {state['step']} steps, but {last} {seen}, and would "
                f"be overwritten; resume that one, or name another --output_dir."
            )
    return writable_folder(folder)


def _short(row: dict[str, float]) -> dict[str, str]:
    """What the progress bar shows of a log row."""
    names = {"train/loss": "loss", "train/loss_jepa": "jepa"}
    shown = {short: f"{row[name]:.2e}" for name, short in names.items() if name in row}
    ranks = [f"{value:.1f}" for name, value in row.items() if name.startswith("train/effective_rank/")]
    return shown | ({"rank": ", ".join(ranks)} if ranks else {})


def main(argv: Sequence[str] | None = None) -> Run:
    """Trains as the flags say; an input that cannot be used ends the process with 2 and one line that says why."""
    with distributed.group(), Interrupts() as interrupts:
        with distributed.first_one_first():  # what is wrong with the flags is said once
            args = parse(argv)
        run = _or_exit(lambda: Run(args), ValueError, OSError)
        _or_exit(lambda: run.train(interrupts), NonFiniteLossError, ValueError, OSError)
        run.engine.end()
        last = run.folder / "last.pt"
        print(f"checkpoints and metrics are in {run.folder}; evaluate with: python evaluate.py {last}")
        return run


def _or_exit(action: Callable[[], Any], *errors: type[Exception]) -> Any:
    try:
        return action()
    except Interrupted as stopped:
        print(f"train.py: {stopped.said}", file=sys.stderr)
        raise
    except errors as error:
        distributed.complain(f"train.py: error: {' '.join(str(error).split())}")
        sys.exit(2)


if __name__ == "__main__":
    main()
