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
import torch
from atomic import writable_folder
from dataset import LPDataset, batches, epoch_order, make_loader
from devices import device
from jepa_adapter import KKTJepa
from meter import Meter, NonFiniteLossError
from options import parse
from paths import build, kkt, largest, trunk_output
from runlog import RunLog, check_wandb_mode
from splits import open_split
from torch import Tensor
from tqdm import tqdm

from jepa_ssl import CollapseWarning, JointSchedule
from jepa_ssl.diagnostics import describe

FITTED_LPS = 512  # of how many training LPs the views take statistics
GRADIENTS_EVERY = 200  # steps; each look costs about as much as one


class Run:
    """One training run: its network, its JEPA term if it has one, its optimizer, and where it stands."""

    def __init__(self, args: Namespace) -> None:
        self.args = args
        # A checkpoint that cannot be continued is refused before anything is generated or written.
        state = checkpoints.load(args.resume) if args.resume else None
        if state:
            checkpoints.check_same_run(state, args, args.resume)
        check_wandb_mode()
        self.folder = _folder(args, state)
        self.device = device(args.devices)
        # Threads that wait for each other cost small networks more than they bring, most of all on a busy machine.
        torch.set_num_threads(args.num_threads)
        self.data, self.validation = (LPDataset(open_split(args, split)) for split in ("train", "val"))
        if args.lp_files:  # all are looked at now: an unusable one must not end a run in mid-epoch
            for data in (self.data, self.validation):
                for i in range(len(data)):
                    data[i]
        torch.manual_seed(args.seed)
        # The test LPs are not trained on, but an MLP has to be wide enough for them.
        tested = () if args.use_bipartite_graphs else (LPDataset(open_split(args, "test")),)
        self.model, self.collate = build(args, *largest(self.data, self.validation, *tested))
        self.model.to(self.device)
        self.steps = args.epochs * -(-len(self.data) // args.batch_size)  # of the whole run
        self.jepa = KKTJepa(self.model, args, self.device, self.steps, self._log_alarm) if args.use_jepa else None
        self.schedule = JointSchedule(
            jepa_weight=args.jepa_weight if self.jepa else 0.0, pretrain_epochs=args.jepa_pretrain_epochs
        )
        added = self.jepa.parameters() if self.jepa else ()
        self.optimizer = torch.optim.Adam([*self.model.parameters(), *added], lr=args.lr)
        self.epoch, self.step, self.best, self.run_id = 0, 0, float("inf"), None
        self.log: Any = None
        self.bar: Any = None
        if state:
            self._restore(state)
        elif self.jepa:
            some = batches(range(min(len(self.data), FITTED_LPS)), args.batch_size)
            self.jepa.prepare(self._batches(self.data, some))

    def train(self) -> None:
        bar = tqdm(initial=self.step, total=self.steps, unit="step", dynamic_ncols=True)
        earlier = Path(self.args.resume).parent if self.args.resume else None
        log = RunLog(self.folder, vars(self.args), self.run_id, earlier, self.step)
        with bar, log, warnings.catch_warnings():
            warnings.simplefilter("ignore", CollapseWarning)  # it is said above the progress bar, not across it
            self.log, self.bar, self.run_id = log, bar, log.run_id
            while self.epoch < self.args.epochs:
                bar.set_description(f"epoch {self.epoch + 1}/{self.args.epochs}")
                self._train_epoch()
                pretraining = self.schedule.is_pretraining(self.epoch)
                self.epoch += 1
                # In an epoch of JEPA alone the heads are not trained: their KKT loss would say nothing.
                improved = not pretraining and self._validate()
                self._check_weights()
                state = self._state()
                if improved:
                    checkpoints.save(self.folder / "best.pt", state)
                checkpoints.save(self.folder / "last.pt", state)

    def _train_epoch(self) -> None:
        weights = self.schedule(self.epoch)
        meter = Meter(self.data.name)
        order = batches(epoch_order(len(self.data), self.args.seed, self.epoch), self.args.batch_size)
        self.model.train()
        for instances, batch in zip(order, self._batches(self.data, order), strict=True):
            losses: dict[str, Tensor] = {}
            with trunk_output(self.model) as trunk:
                joint = weights.combine(
                    task=lambda batch=batch, losses=losses: self._kkt(batch, losses),
                    jepa=lambda batch=batch, trunk=trunk: self.jepa.loss(batch, *trunk),  # pyright: ignore[reportOptionalMemberAccess]
                    balance=self.jepa.balance if self.jepa else None,
                )
            if self.jepa and self.step % GRADIENTS_EVERY == 0:
                self.jepa.watch(joint.parts)
            self.optimizer.zero_grad()
            joint.total.backward()
            self.optimizer.step()
            if self.jepa:
                self.jepa.update()
            self.step += 1

            losses["train/loss"] = joint.total.detach()
            if joint.jepa:
                losses["train/loss_jepa"] = joint.jepa.terms["total"]
            meter.add(self.step, instances, losses, joint.jepa.context.embeddings if joint.jepa else None)
            self.bar.update()
            if self.step % self.args.log_every == 0:
                row, embeddings = meter.read()
                row |= {f"train/{name}": float(value) for name, value in describe(embeddings).items()}
                self.log({"epoch": self.epoch, **row}, self.step)
                self.bar.set_postfix(_short(row))
        meter.read()  # the losses since the last row are not logged, but they are checked

    def _kkt(self, batch: Any, losses: dict[str, Tensor]) -> Tensor:
        loss, terms = kkt(self.model, batch, self.args)
        losses["train/loss_kkt"] = loss.detach()
        losses.update({f"train/{name}": term for name, term in terms.items()})
        return loss

    @torch.no_grad()
    def _validate(self) -> bool:
        """Logs the mean KKT loss of the validation LPs; is it the best so far?"""
        self.model.eval()
        order = batches(range(len(self.validation)), self.args.batch_size)
        meter = Meter(self.validation.name)
        total = torch.zeros((), device=self.device)
        for instances, batch in zip(order, self._batches(self.validation, order), strict=True):
            loss, terms = kkt(self.model, batch, self.args)
            meter.add(self.step, instances, {"val/loss_kkt": loss, **terms}, None)
            total += loss * len(batch.b)
        meter.read()  # for its check alone: the mean is over LPs, not over batches
        loss = total.item() / len(self.validation)
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
                    f"the weights {name} are not finite after epoch {self.epoch}; lower --lr. "
                    f"The checkpoints hold the state before this epoch."
                )

    def _state(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,  # how many are finished
            "step": self.step,
            "best": self.best,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "args": vars(self.args),
            "jepa": self.jepa.state_dict() if self.jepa else None,
            "rng": torch.get_rng_state(),
            "run_id": self.run_id,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.epoch, self.step, self.best, self.run_id = (state[key] for key in ("epoch", "step", "best", "run_id"))
        try:
            self.model.load_state_dict(state["model"])
            if self.jepa and not self.jepa.load_state_dict(state["jepa"]):
                print(f"{self.args.resume} has no teacher: it starts from the online weights.", file=sys.stderr)
            self.optimizer.load_state_dict(state["optimizer"])
            torch.set_rng_state(state["rng"])
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.args.resume} is of another model: {error} Resume with the flags of its run."
            ) from None
        best = Path(self.args.resume).with_name("best.pt")
        if self.folder.resolve() != best.parent.resolve() and best.exists():
            found = checkpoints.load(best)
            if found["epoch"] <= self.epoch:  # in another folder, too, there is a best one from the start
                checkpoints.save(self.folder / "best.pt", found)


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
    if state and is_continued and (folder / "last.pt").exists():
        seen = checkpoints.load(folder / "last.pt")["epoch"]
        if seen > state["epoch"]:
            raise ValueError(
                f"--resume {args.resume} has seen {state['epoch']} epochs, but {folder / 'last.pt'} {seen}, and would "
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
    args = parse(argv)
    run = _or_exit(lambda: Run(args), ValueError, OSError)
    _or_exit(run.train, NonFiniteLossError, ValueError, OSError)
    print(f"checkpoints and metrics are in {run.folder}; evaluate with: python evaluate.py {run.folder / 'last.pt'}")
    return run


def _or_exit(action: Callable[[], Any], *errors: type[Exception]) -> Any:
    try:
        return action()
    except errors as error:
        print("train.py: error:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
