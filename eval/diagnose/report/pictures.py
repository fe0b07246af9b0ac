"""The plots of a report, as SVG that stands inside the HTML page.

Colours are CSS variables of the page (`var(--ink)` ...), so that one picture serves light and dark; text stays text,
and nothing is fetched. Each picture is as wide as a phone, and scales.
"""

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

WIDTH, HEIGHT = 4.6, 2.9  # inches of 72 points; a phone shows about 330 points
_MOST_ROWS = 24  # of a plot with a row per layer
_NAME_LENGTH = 26
# matplotlib draws with the colour, the page has the variable.
COLOURS = {
    "#010101": "var(--ink)",
    "#020202": "var(--muted)",
    "#030303": "var(--grid)",
    "#040404": "var(--series)",
    "#050505": "var(--second)",
    "#060606": "var(--bad)",
}
_INK, _MUTED, _GRID, _SERIES, _SECOND, _BAD = COLOURS
_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "figure.facecolor": "none",
    "grid.color": _GRID,
    "legend.frameon": False,
}

Draw = Callable[[Axes, Any, dict[str, Any]], bool]
Series = Any  # of `Report.figures`: the shape of each stands with its drawing


@dataclass(frozen=True)
class Picture:
    """One plot: its key in `Report.figures`, a heading, how it is read, and the element, SVG or a PNG inside `img`."""

    name: str
    heading: str
    reading: str
    svg: str


def pictures(figures: dict[str, Series]) -> list[Picture]:
    """A picture for every known series that holds something to draw, in the order people look at them."""
    drawn = [_photograph(figures["frames"])] if "frames" in figures else []
    for name, plot in _PLOTS.items():
        if name in figures and (figure := draw(name, figures)) is not None:
            drawn.append(Picture(name, plot.heading, plot.reading, _svg(figure, name)))
    return drawn


def draw(name: str, figures: dict[str, Series]) -> Figure | None:
    """One series as a figure of `matplotlib`; None where it has no finite number."""
    plot = _PLOTS[name]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.grid(linewidth=0.6)
        return figure if plot.draw(axes, figures[name], figures) else None


def _photograph(series: dict[str, Any]) -> Picture:
    """`{png, rows, clips}`: base64 of a PNG with rows of frames for each clip."""
    reading = (
        f"Held-out clips, {len(series['rows'])} rows for each of {series['clips']}: {', '.join(series['rows'])}. The "
        "second row must look like the first; the third shows, blurred, where the model expects the digits."
    )
    return Picture(
        "frames",
        "Tokens as frames",
        reading,
        f'<img alt="{series["clips"]} clips as rows of frames" style="width:100%;image-rendering:pixelated" '
        f'src="data:image/png;base64,{series["png"]}">',
    )


def _svg(figure: Figure, name: str) -> str:
    """The figure as one `<svg>` element with the page's colours and no size of its own."""
    text = io.StringIO()
    # The salt makes the ids inside differ from those of the page's other pictures, and alike in every report.
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' width="[^"]*pt"| height="[^"]*pt"', "", svg, count=2)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{_PLOTS[name].heading}" ', 1)
    # An id of one picture is one of another as well: matplotlib counts `figure_1`, `axes_1` anew.
    svg = re.sub(r' id="(?:figure|axes|patch|text|line2d|matplotlib|xtick|ytick|legend)[\w.]*"', "", svg)
    for colour, variable in COLOURS.items():
        svg = svg.replace(colour, variable)
    return svg


# ---- one function per plot: (axes, its series, all series) -> whether there was anything to draw ----


def _loss_against_ln_v(axes: Axes, series: dict[str, float | None], figures: dict[str, Series]) -> bool:
    """`{loss, ln_v, unigram}`, nats per token."""
    labels = {"loss": "this model", "unigram": "unigram guess", "ln_v": "uniform guess, ln V"}
    rows = [(labels[key], series[key], key) for key in labels if _is_finite(series.get(key))]
    if not rows or rows[0][2] != "loss":
        return False
    values = [value for _, value, _ in rows]
    bars = axes.barh(
        [label for label, _, _ in rows], values, color=[_SERIES if k == "loss" else _SECOND for *_, k in rows]
    )
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * max(values))
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("nats per token")
    return True


def _loss_curve(axes: Axes, series: dict[str, list], figures: dict[str, Series]) -> bool:
    """`{step, loss, held_out: [[step, loss], ...]}`."""
    train = [(x, y) for x, y in zip(series["step"], series["loss"], strict=True) if _is_finite(y)]
    held_out = [(x, y) for x, y in series.get("held_out", []) if _is_finite(y)]
    for points, label, colour in ((train, "training", _SERIES), (held_out, "held out", _SECOND)):
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, label=label, marker="." if len(points) < 30 else None)
    ln_v = (figures.get("loss_vs_lnv") or {}).get("ln_v")
    if _is_finite(ln_v):
        axes.axhline(ln_v, color=_BAD, linestyle="--", linewidth=1, label="ln V")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    if train or held_out:
        axes.legend()
    return bool(train or held_out)


def _rows(label: str, usual: tuple[float, float] | None = None) -> Draw:
    """Draws `[[name, value], ...]` in the order of the forward pass, with what is usual shaded."""

    def draw_rows(axes: Axes, series: Sequence[tuple[str, float]], figures: dict[str, Series]) -> bool:
        if usual is not None:
            axes.axvspan(*usual, color=_GRID, linewidth=0)
        axes.set_xlabel(label)
        return _dots(axes, series)

    return draw_rows


def _histogram(label: str) -> Draw:
    """Draws `{edges, counts}`; the axis is logarithmic where the edges spread over decades."""

    def draw_histogram(axes: Axes, series: dict[str, list], figures: dict[str, Series]) -> bool:
        edges, counts = series["edges"], series["counts"]
        total = sum(counts)
        if not total:
            return False
        axes.stairs([count / total for count in counts], edges, fill=True, color=_SERIES)
        if edges[0] > 0 and edges[-1] / edges[0] > 100:
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(visible=False, axis="x")
        axes.set_xlabel(label)
        axes.set_ylabel("share of predictions")
        return True

    return draw_histogram


def _calibration(axes: Axes, series: dict[str, list], figures: dict[str, Series]) -> bool:
    """`{confidence, accuracy, counts}`, one entry per bin; a dot's area is its share of the predictions."""
    rows = zip(series["confidence"], series["accuracy"], series["counts"], strict=True)
    points = [(x, y, n) for x, y, n in rows if n and _is_finite(x) and _is_finite(y)]
    if not points:
        return False
    total = sum(n for *_, n in points)
    axes.plot([0, 1], [0, 1], color=_MUTED, linestyle="--", linewidth=1, label="calibrated")
    sizes = [12 + 240 * n / total for *_, n in points]
    axes.scatter([x for x, *_ in points], [y for _, y, _ in points], s=sizes, color=_SERIES, alpha=0.8, linewidths=0)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="probability given to the first choice", ylabel="how often it is right")
    axes.legend()
    return True


def _singular_values(axes: Axes, series: dict[str, list[float]], figures: dict[str, Series]) -> bool:
    """`{layer or "table": values}`; each curve over its largest value, against its share of the width."""
    drawn = 0
    for place, (name, values) in enumerate(series.items()):
        finite = sorted((value for value in values if _is_finite(value) and value > 0), reverse=True)
        if finite:
            shares = [(index + 1) / len(values) for index in range(len(finite))]
            colour, style = (_SERIES, _SECOND)[place % 2], ("-", "--", ":", "-.")[place // 2 % 4]
            axes.plot(
                shares, [value / finite[0] for value in finite], color=colour, linestyle=style, label=_short(name)
            )
            drawn += 1
    axes.set_yscale("log")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("share of the directions")
    axes.set_ylabel("singular value / largest")
    if drawn:
        axes.legend(fontsize="small")
    return drawn > 0


def _dots(axes: Axes, series: Sequence[tuple[str, float]]) -> bool:
    """A row per name, on a logarithmic axis; what is zero or not finite stands at the edge, marked."""
    rows = _most_telling(series)
    drawable = [value for _, value in rows if _is_finite(value) and value > 0]
    if not drawable:
        return False
    edge = min(drawable) / 10 if len(drawable) < len(rows) else None
    axes.figure.set_size_inches(WIDTH, max(HEIGHT, 0.9 + 0.17 * len(rows)))
    for place, (_, value) in enumerate(rows):
        good = _is_finite(value) and value > 0
        axes.plot(
            value if good else edge, place, color=_SERIES if good else _BAD, marker="o" if good else "x", markersize=4
        )
        if not good:
            axes.annotate("0" if value == 0 else "not finite", (edge, place), (6, -3), textcoords="offset points")
    axes.set_xscale("log")
    # Whole decades, labelled alone: labels between them run into one another.
    lowest, highest = edge or min(drawable), max(drawable)
    axes.set_xlim(10 ** math.floor(math.log10(lowest)) / 1.3, 10 ** math.ceil(math.log10(highest)) * 1.3)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(range(len(rows)), [_short(name) for name, _ in rows], fontsize=7.5)
    axes.invert_yaxis()
    axes.margins(y=0.6 / len(rows))
    if len(rows) < len(series):
        axes.set_title(f"the {len(rows)} smallest and largest of {len(series)}", fontsize=8)
    return True


def _most_telling(series: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """All rows in their order, or, of too many, the smallest and the largest."""
    if len(series) <= _MOST_ROWS:
        return [tuple(row) for row in series]
    by_size = sorted(range(len(series)), key=lambda i: series[i][1] if _is_finite(series[i][1]) else -math.inf)
    half = _MOST_ROWS // 2
    return [tuple(series[i]) for i in sorted({*by_size[:half], *by_size[-half:]})]


def _short(name: str) -> str:
    """The end of a name, from the first dot at which it is short enough; it tells more than its beginning."""
    name = name.removesuffix(".weight").lstrip("_").replace("$", r"\$")  # else left out of legends, or formulas
    while len(name) > _NAME_LENGTH and "." in name:
        name = name.split(".", 1)[1]
    return name if len(name) <= _NAME_LENGTH else f"…{name[1 - _NAME_LENGTH :]}"


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


@dataclass(frozen=True)
class _Plot:
    heading: str
    reading: str
    draw: Draw


_PLOTS = {
    "loss_vs_lnv": _Plot(
        "Loss against ln V",
        "A model that knows nothing loses ln V, one that knows how frequent words are loses the unigram guess. "
        "Training must bring the loss below both.",
        _loss_against_ln_v,
    ),
    "loss_curve": _Plot(
        "Loss of the run",
        "It falls quickly at first, then slowly. Flat from the start, or above ln V, is broken; held out rising while "
        "training falls is overfitting.",
        _loss_curve,
    ),
    "gradient_norms": _Plot(
        "Gradient norm by layer",
        "Neighbours differ by small factors. A row at zero does not learn; a slope over many decades vanishes or "
        "explodes.",
        _rows("gradient norm"),
    ),
    "update_ratios": _Plot(
        "Update against weight",
        "How far one step moves each weight, as a share of it. About a thousandth is usual (shaded: 1e-4 to 1e-2); "
        "far to the right the learning rate is too high, far to the left nothing is learned.",
        _rows("update / weight, one step", usual=(1e-4, 1e-2)),
    ),
    "entropy_histogram": _Plot(
        "Entropy of the predictions",
        "All at ln V: flat, the model has no opinion. All at zero: always sure, whatever it reads.",
        _histogram("entropy, nats"),
    ),
    "top1_mass_histogram": _Plot(
        "Probability of the first choice",
        "A healthy language model is sure at some places and unsure at most.",
        _histogram("probability of the first choice"),
    ),
    "calibration": _Plot(
        "Calibration",
        "Dots on the line: the model is right as often as it says. Below it, overconfident. Larger dots are more "
        "predictions.",
        _calibration,
    ),
    "rank_histogram": _Plot(
        "Rank of the right token",
        "Where the right token stands among the whole vocabulary: 1 is best. Scores against a few random negatives "
        "hide the right half of this picture.",
        _histogram("rank of the right token"),
    ),
    "singular_values": _Plot(
        "Singular values",
        "How many directions are used. A curve that drops at once has collapsed onto a few.",
        _singular_values,
    ),
}
