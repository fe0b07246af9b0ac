"""Figures of a video model by predicted frame, beside its baselines', as a picture; needs no display.

plot_frames(json.loads(Path("video.json").read_text()), "frames.png")
"""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_PANELS = {"mse": "squared error, summed over a frame", "ssim": "structural similarity"}


def plot_frames(record: dict[str, Any], picture: str | Path) -> None:
    """Draw MSE and SSIM of each predicted frame, from a Score JSON of a video model."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(_PANELS))
    for axes, (name, label) in zip(panels, _PANELS.items(), strict=True):
        _draw(axes, record, name)
        axes.set_ylabel(label)
    panels[0].legend(fontsize="small")
    target = Path(picture)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Without the date and version that matplotlib adds, the same figures give the same bytes.
    figure.savefig(target, dpi=120, format="png", metadata={"Software": None})


def _draw(axes: Axes, record: dict[str, Any], name: str) -> None:
    first = record["scoring"]["context_frames"] + 1
    ours = record["metrics"]["per_frame"][name]
    frames = range(first, first + len(ours))
    axes.plot(frames, ours, label="model", marker="o", linewidth=2)
    for baseline, found in record["baselines"].items():
        axes.plot(frames, found["per_frame"][name], label=baseline.replace("_", " "), linestyle="--")
    axes.set_xlabel("frame")
    axes.grid(alpha=0.3)
