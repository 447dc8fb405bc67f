"""Train a KKT net on LPs: only KKT, JEPA then KKT, JEPA then both, or both from the start.

python train.py --use_bipartite_graphs --use_jepa --jepa_mode ema
"""

import os
import sys
import time
import warnings
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jepa_adapter
import torch
from data.batches import LPDataset, batches, epoch_order, make_loader
from data.splits import SPLITS, open_split, remove_unfinished, writable_folder
from loop import checkpoints, distributed, random_state
from loop.distributed import Interrupted, Interrupts
from loop.log import Meter, NoLog, NonFiniteLossError, RunLog, check_wandb_mode
from loop.options import parse
from loop.paths import build, kkt
from loop.step import Deal, Step
from tqdm import tqdm

from jepa_ssl import processes
from jepa_ssl.diagnostics import spread_and_rank
from jepa_ssl.monitor import CollapseWarning

FITTED_LPS = 512  # the views take statistics of this many training LPs
SHOWN = ("train/loss", "train/loss_jepa")  # on the progress bar, with the ranks
GRADIENTS_EVERY = 200  # steps; each look costs about as much as one


class Run:
    """One training run: its network, its JEPA term if it has one, its optimizer, and its progress."""

    def __init__(self, args: Namespace) -> None:
        self.args = args = Namespace(**{**vars(args), "resume": _to_resume(args)})
        # A checkpoint that cannot be continued is refused before anything is generated or written.
        state = checkpoints.load(args.resume) if args.resume else None
        if state:
            checkpoints.check_same_run(state, args, args.resume)
        check_wandb_mode()
        self.is_first = distributed.is_first()  # only this process writes
        self.folder = _folder(args, state) if self.is_first else Path(os.devnull)
        self.device, self.deal = distributed.device(args.devices), Deal.of(args)
        # Threads that wait for each other cost small networks more than they bring, most of all on a busy machine.
        torch.set_num_threads(args.num_threads)
        datasets = _datasets(args)
        self.data, self.validation, *_ = datasets
        random_state.seed(args.seed)
        self.model, self.collate = build(args, *map(max, *(data.sizes for data in datasets)))
        self.model.to(self.device)
        self.steps = args.epochs * len(self.deal.steps(range(len(self.data))))  # of the whole run
        self.jepa: Any = None  # a JEPATerm, if there is one
        if args.use_jepa:
            self.jepa = jepa_adapter.jepa_term(self.model, args, self.device, self.steps, self._log_alarm)
        self.engine = Step(self.model, self.jepa, args, self.device, self.deal)
        trained = [weights for weights in self.engine.parameters() if weights.requires_grad]
        self.optimizer = torch.optim.Adam(trained, lr=args.lr)
        self.epoch, self.taken, self.step, self.best = 0, 0, 0, float("inf")
        self.run_id, self.rows, self.meter = None, 0, Meter(self.data.name)
        self.log: Any
        self.bar: Any
        if state:
            self._restore(state)
        elif self.jepa:
            some = batches(range(min(len(self.data), FITTED_LPS)), args.batch_size)
            jepa_adapter.prepare(self.jepa, self._batches(self.data, some))

    def train(self, interrupts: Interrupts | None = None) -> None:
        """Go on to the last epoch, or until `interrupts` has a signal."""
        self.interrupts = interrupts or Interrupts()
        seconds = 0.1 if sys.stderr.isatty() else 30.0  # between two lines of a log file
        bar = tqdm(initial=self.step, total=self.steps, unit="step", dynamic_ncols=True, mininterval=seconds)
        earlier = Path(self.args.resume).parent if self.args.resume else None
        log: Any = NoLog()
        if self.is_first:
            log = RunLog(self.folder, vars(self.args), self.run_id, earlier, self.rows)
            remove_unfinished(self.folder)  # the log has made sure that no other run writes there
        with bar, log, warnings.catch_warnings():
            warnings.simplefilter("ignore", CollapseWarning)  # it is printed above the progress bar, not across it
            self.log, self.bar, self.run_id = log, bar, log.run_id
            self.interrupts.can_save = True
            while self.epoch < self.args.epochs:
                bar.set_description(f"epoch {self.epoch + 1}/{self.args.epochs}")
                self._train_epoch()
                pretraining = self.engine.schedule.is_pretraining(self.epoch)
                self.epoch, self.taken = self.epoch + 1, 0
                # In a JEPA epoch the heads are not trained, so their KKT loss would mean nothing.
                improved = not pretraining and self._validate()
                self._save(*(["best.pt"] if improved else []), "last.pt")
                if self.epoch < self.args.epochs:
                    self._stop_if_asked(is_saved=True)

    def _train_epoch(self) -> None:
        order = self.deal.steps(epoch_order(len(self.data), self.args.seed, self.epoch))[self.taken :]
        loaded = self._batches(self.data, [piece for instances in order for piece in self.deal.own(instances)])
        self.model.train()
        for instances in order:
            random_state.seed_step(self.args.seed, self.step, self.device)
            self.optimizer.zero_grad()
            watch = self.step % GRADIENTS_EVERY == 0
            loss = self.engine.backward(loaded, instances, epoch=self.epoch, watch=watch)
            self.optimizer.step()
            if self.jepa:
                self.jepa.update()
            self.step, self.taken = self.step + 1, self.taken + 1

            self.meter.add(self.step, instances, loss.losses, loss.embeddings)
            self.bar.update()
            if self.step % self.args.log_every == 0:
                row, embeddings = self.meter.read()
                row |= {f"train/{name}": float(value) for name, value in spread_and_rank(embeddings).items()}
                self.log({"epoch": self.epoch, **row}, self.step)
                shown = [name for name in row if name in SHOWN or name.startswith("train/effective_rank/")]
                self.bar.set_postfix({name.removeprefix("train/"): f"{row[name]:.2e}" for name in shown})
            due = self.args.checkpoint_every and self.step % self.args.checkpoint_every == 0
            if due:
                self._save("last.pt")
            self._stop_if_asked(is_saved=due)
        self.meter.read()  # the losses since the last row are not logged, but they are checked

    @torch.no_grad()
    def _validate(self) -> bool:
        """Log the mean KKT loss of the validation LPs; is it the best so far?"""
        self.model.eval()
        order = batches(range(self.deal.rank, len(self.validation), self.deal.processes), self.args.batch_size)
        meter = Meter(self.validation.name)
        total = torch.zeros((), device=self.device)
        for instances, batch in zip(order, self._batches(self.validation, order), strict=True):
            loss, terms = kkt(self.model, batch, self.args)
            meter.add(self.step, instances, {"val/loss_kkt": loss, **terms}, {})
            total += loss * len(batch.b)
        meter.read()  # only for its check: the mean is over LPs, not over batches
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

    def _stop_if_asked(self, is_saved: bool) -> None:
        """End the run with a checkpoint if a signal has come."""
        signal = self.interrupts.agreed()
        if signal:
            if not is_saved:
                self._save("last.pt")
            distributed.wait()  # none ends before the first one has written
            raise Interrupted(
                signal, f"after step {self.step}; go on with the same command and --resume {self.folder / 'last.pt'}"
            )

    def _save(self, *names: str) -> None:
        for name, weights in self.engine.named_parameters():
            if not weights.isfinite().all():
                raise NonFiniteLossError(
                    f"the weights {name} are not finite after step {self.step}; lower --lr. "
                    f"The checkpoints hold an earlier state."
                )
        state = self._state()
        if self.is_first:
            self.log.sync()
            for name in names:
                checkpoints.save(self.folder / name, state)

    def _state(self) -> dict[str, Any]:
        return {
            # How many epochs are finished, and how many steps of the one after.
            "epoch": self.epoch,
            "taken": self.taken,
            "step": self.step,
            "best": self.best,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "args": vars(self.args),
            "meter": self.meter.state_dict(),
            "rows": self.log.rows,
            "run_id": self.run_id,
            **(checkpoints.jepa_parts(self.jepa) if self.jepa else {"jepa": None}),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        for name in ("epoch", "taken", "step", "best", "rows", "run_id"):
            setattr(self, name, state[name])
        try:
            self.model.load_state_dict(state["model"])
            if self.jepa and not checkpoints.resume_jepa(self.jepa, state):
                print(f"{self.args.resume} has no teacher: it starts from the online weights.", file=sys.stderr)
            self.optimizer.load_state_dict(state["optimizer"])
            self.meter.load_state_dict(state["meter"], self.device)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            message = f"{self.args.resume} is of another model: {error} Resume with the flags of its run."
            raise ValueError(message) from None
        best = Path(self.args.resume).with_name("best.pt")
        if self.is_first and self.folder.resolve() != best.parent.resolve() and best.exists():
            found = checkpoints.load(best)
            if found["step"] <= self.step:  # a new folder, too, has a best one from the start
                checkpoints.save(self.folder / "best.pt", found)


def _datasets(args: Namespace) -> list[LPDataset]:
    """The data sets of training and validation, and the test LPs if the network depends on their sizes."""
    # The test LPs are not trained on, but an MLP has to be wide enough for them.
    needed = [split for split in SPLITS if split != "test" or not args.use_bipartite_graphs]
    with distributed.first_one_first():
        datasets = [LPDataset(open_split(args, split)) for split in needed]
    for data in datasets[:2] if args.lp_files else ():  # an unusable file must not end a run in mid-epoch
        for i in range(len(data)):
            data[i]
    return datasets


def _to_resume(args: Namespace) -> str | None:
    """The checkpoint that `--resume` names; for `auto`, that of the run in `--output_dir`, if it holds one."""
    if args.resume != "auto":
        return args.resume
    last, best = (Path(args.output_dir) / name for name in ("last.pt", "best.pt"))
    if best.exists() and not last.exists():  # it was killed between the first two that it wrote, which are the same
        checkpoints.save(last, checkpoints.load(best))
    return str(last) if last.exists() else None


def _folder(args: Namespace, state: dict[str, Any] | None) -> Path:
    """The run's folder, made and found writable. A run that it holds already is continued, never overwritten."""
    resumed = Path(args.resume).parent if args.resume else None
    path, mode = "gnn" if args.use_bipartite_graphs else "mlp", args.jepa_mode if args.use_jepa else "kkt"
    # With the process, for two runs may start in the same second.
    new = Path("exps") / f"{path}-{mode}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    folder = Path(args.output_dir) if args.output_dir else resumed or new
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


def main(argv: Sequence[str] | None = None) -> Run:
    """Train as the flags say; an input that cannot be used ends the process with 2 and one line that says why."""
    with distributed.group(), Interrupts() as interrupts:
        with distributed.first_one_first():  # one process reports wrong flags
            args = parse(argv)
        try:
            run = Run(args)
            run.train(interrupts)
        except Interrupted as stopped:
            print(f"train.py: {stopped.said}", file=sys.stderr)
            raise
        except (NonFiniteLossError, ValueError, OSError) as error:
            distributed.complain(f"train.py: error: {' '.join(str(error).split())}")
            sys.exit(2)
        last = run.folder / "last.pt"
        evaluate = os.path.relpath(Path(__file__).with_name("evaluate.py"))
        print(f"checkpoints and metrics are in {run.folder}; evaluate with: python {evaluate} {last}")
        return run


if __name__ == "__main__":
    main()
