"""How much there is to learn from prepared rows: effective examples, and holes per row."""

from training.data.prepared import Prepared
from training.data.settings import MaskingSettings
from training.run.run import Run


def count_examples(prepared: Prepared) -> int:
    """Effective examples of the training part: (row, position) pairs whose token can be predicted."""
    return int(prepared.counts.sum())


def unknown_size(run: Run) -> list[str]:
    """The plan's line for a run whose corpus is streamed."""
    if not run.data.streaming:
        return []
    sample = "            that is the sample of the stream; its whole size is not known, so size and steps "
    return [f"{sample}are not judged"]


def mean_length(prepared: Prepared) -> float:
    """Tokens per training row that can be holes."""
    return count_examples(prepared) / max(1, len(prepared.train))


def holes_per_row(masking: MaskingSettings, length: float) -> float:
    """Mean number of holes in rows of so many maskable tokens, over the whole run; at least one.

    For spans an estimate: they fill about half of what they may.
    """
    if masking.masking == "single":
        return 1.0
    if masking.masking == "span":
        return max(1.0, 0.5 * masking.max_span_share * length)
    final = masking.mask_rate if masking.mask_rate_final is None else masking.mask_rate_final
    return max(1.0, 0.5 * (masking.mask_rate + final) * length)


def batch_note(run: Run, parts: tuple[str, ...], num_processes: int) -> str | None:
    """What a step of several micro-batches does not share among them; None where nothing is lost.

    Args:
        parts: of the loss that compare the rows of a batch (`JepaConfig.of_the_batch`).
    """
    rows, accumulation = run.training.per_device_train_batch_size, run.training.gradient_accumulation_steps
    if not parts or accumulation * num_processes == 1:
        return None
    whole = rows * accumulation * num_processes
    return (
        f"{' and '.join(parts)} compare the {rows} rows of each micro-batch, not the {whole} of a step: the figures "
        f"are not those of --per_device_train_batch_size {whole}"
    )
