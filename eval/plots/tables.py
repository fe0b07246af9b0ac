"""Score JSONs as tables: a model's figures beside its baselines."""

from typing import Any

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from eval.metrics.ranks import FIGURE_NAMES
from eval.scorers.candidates import CANDIDATES

_HEADINGS = ("top-1", "top-5", "top-10", "MRR", "median", "mean", "cosine", "cos>.9")
_WIDTH = 108  # title and caption are folded at the width of the table
_CAUSAL = {
    "perplexity": ("perplexity", 2),
    "word_perplexity": ("per word", 2),
    "bits_per_byte": ("bits/byte", 4),
    "greedy_accuracy": ("accuracy", 4),
    "leak_gap": ("leak gap", 6),
}
_DIALOGUE = {
    "perplexity": ("perplexity", 2),
    "latent_usage_ratio": ("latent\nuse", 3),
    "accuracy": ("accuracy", 3),
    "hits_at_1": ("hits@1", 3),
    "hits_at_5": ("hits@5", 3),
    "mrr": ("MRR", 3),
    "distinct_1": ("distinct-1", 3),
    "distinct_2": ("distinct-2", 3),
    "effective_rank": ("eff.\nrank", 1),
}
_CLASSIFIER = {
    "accuracy": ("accuracy", 4),
    "macro_f1": ("macro F1", 4),
    "micro_f1": ("micro F1", 4),
    "matthews": ("Matthews", 4),
    "pearson": ("Pearson", 4),
    "mae": ("MAE", 4),
    "loss": ("loss", 4),
}
_VIDEO = {
    "mse": ("MSE", 1),
    "mae": ("MAE", 1),
    "psnr": ("PSNR, dB", 2),
    "ssim": ("SSIM", 3),
    "argmax_mse": ("argmax MSE", 1),
    "expectation_ssim": ("exp. SSIM", 3),
    "sampled_mse": ("sampled MSE", 1),
    "sampled_ssim": ("sampled SSIM", 3),
}


def text_table(record: dict[str, Any]) -> Table:
    """Latent text model: all figures beside the unigram baseline, overall and by frequency decile of the targets.

    Decile 1 holds the most frequent targets; beside it stands how often they occur in the training part.
    """
    table = _empty(record, f"{record['num_examples']:,} blanks", _caption(record))
    table.add_column("decile: training count", no_wrap=True)
    table.add_column("", style="dim")
    for heading in _HEADINGS:
        table.add_column(heading, justify="right")
    model, unigram = record["metrics"], record["baselines"]["unigram"]
    _add_pair(table, "all", model, unigram)
    table.add_section()
    # `or ()`: without training counts there are no deciles and no baseline.
    for ours, theirs in zip(model["by_decile"] or (), unigram["by_decile"] or (), strict=True):
        label = f"{ours['decile']}: {_count_range(ours)}"
        _add_pair(table, label, ours, theirs)
    return table


def causal_table(record: dict[str, Any]) -> Table:
    """Causal model: its figures and the baselines' on the same tokens; the leak gap in nats per token."""
    counted = f"{record['num_examples']:,} tokens of {record['num_rows']:,} documents"
    return _beside_baselines(record, _CAUSAL, counted, _causal_caption(record))


def classifier_table(record: dict[str, Any]) -> Table:
    """Classifier: its figures and those of always saying what is most frequent in the same rows."""
    caption = "Loss: cross entropy in nats, of a regression the squared error. Most frequent: in these very rows."
    if record["metrics"].get("unknown_share"):
        caption += f" {record['metrics']['unknown_share']:.1%} of the tokens are unknown to the tokenizer."
    return _beside_baselines(record, _CLASSIFIER, f"{record['num_examples']:,} rows", caption)


def dialogue_table(record: dict[str, Any]) -> Table:
    """Dialogue model: its figures and the baselines' on the same pairs."""
    counted = f"{record['num_examples']:,} pairs of {record['num_rows']:,} dialogues"
    return _beside_baselines(record, _DIALOGUE, counted, _dialogue_caption(record))


def video_table(record: dict[str, Any]) -> Table:
    """Video model: its figures and the baselines' on the same clips."""
    how = record["scoring"]
    counted = (
        f"{record['num_examples']:,} clips, {how['context_frames']} frames seen, {how['predicted_frames']} to say"
    )
    return _beside_baselines(record, _VIDEO, counted, _video_caption(record))


def _beside_baselines(
    record: dict[str, Any], columns: dict[str, tuple[str, int]], counted: str, caption: str
) -> Table:
    """One row for the model and one for each baseline; `columns`: figure -> (heading, digits)."""
    table = _empty(record, counted, caption, min_width=_WIDTH)
    table.add_column("", no_wrap=True)
    for heading, _ in columns.values():
        table.add_column(heading, justify="right")
    table.add_row("model", *_figure_cells(record["metrics"], columns))
    for name, figures in record["baselines"].items():
        table.add_row(name.replace("_", " "), *_figure_cells(figures, columns), style="dim")
    return table


def _empty(record: dict[str, Any], counted: str, caption: str, min_width: int | None = None) -> Table:
    # `Text`, because a token such as [bold] would be read as rich's markup.
    title = Text(f"{record['checkpoint']} on {record['data']} ({record['split']}): {counted}")
    justify = {"title_justify": "left", "caption_justify": "left"}
    return Table(title=title, caption=Text(caption), **justify, box=SIMPLE, min_width=min_width)


def _figure_cells(figures: dict[str, Any], columns: dict[str, tuple[str, int]]) -> list[str]:
    values = [(figures[name], digits) for name, (_, digits) in columns.items()]
    return ["-" if value is None else f"{value:,.{digits}f}" for value, digits in values]


def _dialogue_caption(record: dict[str, Any]) -> str:
    """What each figure is over."""
    how, target = record["scoring"], record["metrics"]["target_effective_rank"]
    parts = [
        f"Perplexity and accuracy over {how['reply_tokens']:,} reply tokens; latent use: perplexity with another "
        "pair's latents over it (1: unused)."
    ]
    if how["candidates"]:
        parts.append(f"hits and MRR among {how['candidates']} replies; word overlap is BM25.")
    else:
        parts.append(f"No hits and MRR: they choose among {CANDIDATES} replies, and fewer are there.")
    parts.append(f"distinct-n of {how['greedy_replies']:,} greedy replies.")
    if record["metrics"].get("unknown_share"):
        parts.append(f"{record['metrics']['unknown_share']:.1%} of the tokens are unknown; none counts as right.")
    if target is not None:
        parts.append(f"Effective rank of the target latents: {target:.1f}.")
    return " ".join(parts)


def _video_caption(record: dict[str, Any]) -> str:
    """The conventions, what the codes cost, and how the error grows."""
    how, metrics = record["scoring"], record["metrics"]
    by_frame = ", ".join(f"{value:.0f}" for value in metrics["per_frame"]["mse"])
    size = how["frame_size"]
    return (
        f"MSE and MAE are summed over a frame of {size} x {size}, and with PSNR (of the mean MSE) of the expected "
        f"frames; SSIM of the best codes (argmax; windows of 7 x 7 inside the frame). Sampled: "
        f"{how['sampled_clips']:,} clips. Coding alone costs an MSE of {metrics['reconstruction_mse']:.2f}. "
        f"MSE by frame: {by_frame}."
    )


def _causal_caption(record: dict[str, Any]) -> str:
    """What the figures per word and per byte divide by, the unknown share, and where a routed model looks."""
    metrics = record["metrics"]
    parts = [f"{metrics['words']:,} words and line ends, {metrics['bytes']:,} bytes; accuracy is greedy."]
    if "scoring" in record:
        parts.append(f"The model sees up to {record['scoring']['context']:,} tokens.")
    if metrics["unknown_share"]:
        parts.append(f"{metrics['unknown_share']:.1%} of the tokens are unknown; none counts as right.")
    if metrics["edge_mass"] is not None:
        shares = ", ".join(f"{kind} {share:.1%}" for kind, share in metrics["edge_mass"].items())
        parts.append(f"Attention by edge: {shares}.")
    return " ".join(parts)


def _add_pair(table: Table, label: str, model: dict, unigram: dict) -> None:
    """Two rows: the model's figures and the baseline's."""
    table.add_row(label, "model", *_cells(model))
    table.add_row("", "unigram", *_cells(unigram), style="dim")


def _cells(figures: dict) -> list[str]:
    """Figures as short text: ranks with one decimal, shares and cosines with three, - for what makes no sense."""
    cells = []
    for name in FIGURE_NAMES:
        value = figures[name]
        digits = 1 if name.endswith("rank") else 3
        cells.append("-" if value is None else f"{value:,.{digits}f}")
    return cells


def _count_range(decile: dict) -> str:
    """How often a decile's tokens stood in the training part."""
    if decile["num_examples"] == 0:
        return "no blanks"
    return f"{decile['max_count']:,} to {decile['min_count']:,}"


def _caption(record: dict[str, Any]) -> str:
    """The tokens put first most often, so that a model that always says the same is seen at once."""
    words = ", ".join(f"{token} {share:.1%}" for token, share in record["metrics"]["most_predicted"][:5])
    said = f"Most predicted: {words}. Ranks are among the whole vocabulary; ties count against the model."
    if record["metrics"].get("unknown_share"):
        said += (
            f" {record['metrics']['unknown_share']:.1%} of the text's tokens are unknown to the tokenizer, and no "
            f"blank stands there: counted as wrong, they make top-1 {record['metrics']['top1_of_all']:.3f}."
        )
    return said
