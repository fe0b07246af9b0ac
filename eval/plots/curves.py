"""Curves of a run from its `log.jsonl`, as a picture; needs no display.

plot_run("outputs/quickstart/log.jsonl", "outputs/quickstart/plots/loss.png")
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from training.common.errors import InputError

LOSS_NAMES = (
    "loss",
    "ranking",
    "alignment",
    "auxiliary",
    "collapse",
    "cross_entropy",
    "block_decorrelation",
    "prediction",
)
HELDOUT_NAMES = (
    "eval_mrr",
    "eval_top1",
    "eval_top5",
    "eval_top10",
    "eval_greedy_accuracy",
    "eval_unigram_accuracy",
    "eval_future_accuracy",
)
FRAME_NAMES = ("eval_mse", "eval_black_mse", "eval_copy_last_mse", "eval_mean_frame_mse")
PERPLEXITY_NAMES = ("perplexity", "eval_perplexity", "eval_unigram_perplexity")
# Credit assignment: a curve for every part of the model.
CREDIT_PANELS = {"credit/": "share of the error", "credit_rate/": "share of the update"}
# Each has a scale of its own.
REPRESENTATION_CURVES = {
    ("eval_effective_rank", "eval_target_effective_rank"): "effective rank",
    ("eval_mean_pairwise_cosine",): "pairwise cosine",
}

_PERPLEXITY = "perplexity"
_FEW = 6  # curves; more need a smaller legend


def read_log(path: str | Path) -> list[dict]:
    """Rows of a `log.jsonl` in order; raises InputError naming file and line for one that is no JSON object."""
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; give the log.jsonl of a run") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {number}: not JSON ({error.msg}); remove the line") from error
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number}: not a JSON object; remove the line")
        rows.append(row)
    return rows


def curve(rows: Sequence[dict], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one logged figure; rows without it, or where it is null, are left out."""
    points = [(row["step"], row[name]) for row in rows if "step" in row and isinstance(row.get(name), int | float)]
    return [step for step, _ in points], [float(value) for _, value in points]


def plot_run(log: str | Path, picture: str | Path) -> None:
    """Draw loss and its parts, held-out figures (shares 0..1) and, where logged, perplexity, credit by part, and how
    much of its space the model uses; against optimizer steps.

    Raises:
        InputError: the log holds no loss.
    """
    rows = read_log(log)
    if not curve(rows, "loss")[0]:
        raise InputError(f"{log} holds no training loss yet: train for at least one logging step")
    panels = [(LOSS_NAMES, "training loss"), (HELDOUT_NAMES, "held-out figure")]
    panels += _optional_panels(rows)
    figure = Figure(figsize=(8, 3 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), 1, sharex=True)
    for panel, (names, label) in zip(axes, panels, strict=True):
        _draw(panel, rows, names, label)
    axes[-1].set_xlabel("step")
    Path(picture).parent.mkdir(parents=True, exist_ok=True)
    # Without the date and version that matplotlib adds, the same log gives the same bytes.
    figure.savefig(picture, dpi=120, metadata={"Software": None})


def _optional_panels(rows: Sequence[dict]) -> list[tuple[Sequence[str], str]]:
    """Names and label of what only some families log."""
    panels: list[tuple[Sequence[str], str]] = []
    if curve(rows, PERPLEXITY_NAMES[0])[0]:
        panels.append((PERPLEXITY_NAMES, _PERPLEXITY))
    if curve(rows, FRAME_NAMES[0])[0]:
        panels.append((FRAME_NAMES, "squared error of a frame"))
    for prefix, label in CREDIT_PANELS.items():
        names = sorted({name for row in rows for name in row if name.startswith(prefix)})
        panels += [(names, label)] if names else []
    return panels + [(names, label) for names, label in REPRESENTATION_CURVES.items() if curve(rows, names[0])[0]]


def _draw(axes: Axes, rows: Sequence[dict], names: Sequence[str], label: str) -> None:
    """The named curves that the log holds, on one pair of axes."""
    drawn = 0
    for name in names:
        steps, values = curve(rows, name)
        if steps and not all(math.isnan(value) for value in values):
            axes.plot(steps, values, label=name.removeprefix("eval_"), marker="." if len(steps) < 30 else None)
            drawn += 1
    axes.set_ylabel(label)
    axes.set_yscale("log" if label == _PERPLEXITY else "linear")
    axes.grid(alpha=0.3)
    if drawn:
        axes.legend(fontsize="small" if drawn > _FEW else "medium", ncols=1 + drawn // _FEW)
