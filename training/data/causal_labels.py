"""Labels of a causal language model: every token but the first that a document shows in a block."""

import torch

IGNORED = -100


class CausalLabels:
    """Adds `labels` to a batch of packed blocks. Nothing in it is random.

    A token is predicted from those before it in its own document and block. The first of them has none, so its label
    is -100; and a padded place is none.
    """

    def __call__(self, batch: dict[str, torch.Tensor], progress: float = 0.0) -> dict[str, torch.Tensor]:
        """The model's inputs.

        Args:
            batch: of a `BlockCollator`: `input_ids`, `attention_mask`, `position_ids` (batch, length), `row_id` and
                `pass_index` (batch,), which are dropped.
            progress: share of the steps done; nothing depends on it.

        Returns:
            The three of shape (batch, length) and `labels` of the same shape, unshifted: the label at a place is the
            token there. The labels other than -100 are as many as the predictions.
        """
        kept = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids")}
        # A padded place has position 0 too.
        return {**kept, "labels": torch.where(batch["position_ids"] > 0, batch["input_ids"], IGNORED)}
