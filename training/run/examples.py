"""How much there is to learn from prepared rows: effective examples, and holes per row."""

from training.data.prepared import Prepared
from training.data.settings import MaskingSettings


def count_examples(prepared: Prepared) -> int:
    """Effective examples of the training part: (row, position) pairs whose token can be predicted."""
    return int(prepared.counts.sum())


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
