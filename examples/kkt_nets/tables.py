"""The reports of an evaluation as text for a terminal."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

HEADINGS = {
    "gap": "gap",
    "primal_max": "p max",
    "primal_mean": "p mean",
    "dual_max": "d max",
    "dual_mean": "d mean",
    "slackness_max": "s max",
    "slackness_mean": "s mean",
    "kkt": "KKT",
    "network_seconds": "net s",
    "highs_seconds": "HiGHS s",
}
LEGEND = """\
gap: |c'x - c'x*| / max(1, |c'x*|); it may be small where x is not feasible. p: primal violation, relu(Ax - b).
d: dual violation, |c + A'lam|. s: complementary slackness, |lam (Ax - b)|. Of these the greatest and the mean over an
LP's rows or columns, in original units. KKT: the training loss, of the LP as the run scaled it, with its weights.
net s: seconds of a warm forward pass on a batch of LPs of one size (--batch_size, by default the run's), over the LPs
in it, without the solver steps of --seen_steps; larger batches take less an LP. HiGHS s: its own run time on one LP,
which it solves to the optimum.
lam >= 0 holds in both networks by construction; report.json has relu(-lam) nevertheless."""


def evaluation(reports: Sequence[Mapping[str, Any]]) -> str:
    """Mean and median per family and size of each run; then what the columns mean, and what to beware of."""
    parts = [table(["run", "family", "size", "LPs", *HEADINGS.values()], _rows(reports))]
    parts += [LEGEND, embeddings(reports), *_warnings(reports)]
    return "\n\n".join(parts)


def _rows(reports: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    for i, report in enumerate(reports):
        if i:
            yield [""] * (4 + len(HEADINGS))
        for group in report["groups"]:
            # Of a single LP the mean is the median.
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
        yield from (f"{report['label']}: while it was trained: {alarm}" for alarm in report["alarms"])
        everything = report["groups"][-1]
        if everything["non_finite"]:
            yield (
                f"{report['label']}: {everything['non_finite']} of {everything['count']} LPs have a prediction or a "
                f"measure that is not finite, counted as inf."
            )
        if report["known_files"]:
            yield (
                f"{report['label']}: {report['known_files']} of these files were there when it was trained, so this is "
                f"no measure of how it does on new LPs."
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
    text = [
        "  ".join(
            cell.ljust(width) if i < text_columns else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([text[0], "-" * (sum(widths) + 2 * (len(widths) - 1)), *text[1:]])
