"""What the dialogue model is given beside a batch of pairs: how far the decoder is from its own predictions."""

import torch


class DialogueMasker:
    """Takes a batch of pairs to the model's inputs. Nothing in it is random.

    Args:
        decoder_latent: of the model's configuration. With `mixed`, the share of the teacher's latents in what the
            decoder sees falls in a straight line from 1 at the first step to 0 at the last.
    """

    def __init__(self, decoder_latent: str) -> None:
        self._is_mixed = decoder_latent == "mixed"

    def __call__(self, batch: dict[str, torch.Tensor], progress: float = 0.0) -> dict[str, torch.Tensor]:
        """The model's inputs.

        Args:
            batch: of a `PairCollator`: `input_ids`, `attention_mask` (batch, context), `labels` (batch, reply);
                `row_id` and `pass_index` (batch,), which are dropped.
            progress: share of the steps done.

        Returns:
            The three, and with `mixed` latents `target_share`, 0-d float32. The labels other than -100 are as many as
            the predictions.
        """
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
        if self._is_mixed:
            inputs["target_share"] = torch.tensor(1.0 - progress, device=batch["labels"].device)
        return inputs
