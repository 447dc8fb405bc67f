"""The reports of an evaluation as text for a terminal."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

HEADINGS = {"gap": "gap", "primal_max": "p max", "primal_mean": "p mean", "dual_max": "d max", "dual_mean": "d mean"}
HEADINGS |= {"slackness_max": "s max", "slackness_mean": "s mean", "kkt": "KKT"}
HEADINGS |= {"network_seconds": "net s", "highs_seconds": "HiGHS s"}
LEGEND = """\
gap: |c'x - c'x*| / max(1, |c'x*|); it may be small where x is not feasible. p: primal violation, relu(Ax - b).
d: dual violation, |c + A'lam|. s: complementary slackness, |lam (Ax - b)|. Of each the greatest and the mean over an
LP's rows or columns, in original units. KKT: the training loss, of the LP as the run scaled it, with its weights.
net s: seconds of a warm forward pass on a batch of LPs of one size (--batch_size, by default the run's), divided by
their number, without the solver steps of --seen_steps; larger batches take less per LP. HiGHS s: its own run time on
one LP, which it solves to the optimum.
lam >= 0 holds in both networks by construction; report.json has relu(-lam) nevertheless."""


def evaluation(reports: Sequence[Mapping[str, Any]]) -> str:
    """Mean and median per family and size of each run; then what the columns mean, and warnings."""
    parts = [table(["run", "family", "size", "LPs", *HEADINGS.values()], _rows(reports))]
    return "\n\n".join([*parts, LEGEND, embeddings(reports), *_warnings(reports)])


def _rows(reports: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    for i, report in enumerate(reports):
        if i:
            yield [""] * (4 + len(HEADINGS))
        for group in report["groups"]:
            # The mean of a single LP is its median.
            for statistic in ("mean", "median") if group["count"] > 1 else ("mean",):
                values = [number(group[statistic][name]) for name in HEADINGS]
                count = f"{statistic} of {group['count']}" if group["count"] > 1 else "1"
                yield [report["label"], group["family"], group["size"], count, *values]


def embeddings(reports: Sequence[Mapping[str, Any]]) -> str:
    """Effective rank and spread of each run's embeddings."""
    rows = [
        [report["label"], kind, stream, f"{measured['effective_rank']:.1f}", number(measured["spread"])]
        for report in reports
        for kind, streams in report["embeddings"].items()
        for stream, measured in streams.items()
    ]
    return table(["run", "embeddings", "stream", "effective rank", "spread"], rows, text_columns=3)


def _warnings(reports: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for report in reports:
        label, everything = report["label"], report["groups"][-1]
        yield from (f"{label}: while it was trained: {alarm}" for alarm in report["alarms"])
        if everything["non_finite"]:
            yield (
                f"{label}: {everything['non_finite']} of {everything['count']} LPs have a prediction or a measure that "
                f"is not finite, counted as inf."
            )
        if report["known_files"]:
            yield (
                f"{label}: {report['known_files']} of these files were there when it was trained, so this does not "
                f"measure how it does on new LPs."
            )


def number(value: float) -> str:
    return f"{value:.1e}"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int = 4) -> str:
    """Columns as wide as their widest cell: the first `text_columns` to the left, numbers to the right.

    >>> print(table(["run", "gap"], [["a", "1.0"], ["longer", "20.0"]], text_columns=1))
    run      gap
    ------------
    a        1.0
    longer  20.0
    """
    lines = [headings, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    signs = "<" * text_columns + ">" * (len(widths) - text_columns)
    form = "  ".join(f"{{:{sign}{width}}}" for sign, width in zip(signs, widths, strict=True))
    first, *others = (form.format(*line).rstrip() for line in lines)
    return "\n".join([first, "-" * (sum(widths) + 2 * (len(widths) - 1)), *others])
