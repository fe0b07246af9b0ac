"""What each model family takes of the data layer. Another family is one more entry.

`training/families.py` joins these with configs, models and scorers; `eval` uses them alone.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from training.data.collators import TextCollator
from training.data.masking import TextMasker
from training.data.prepared import Prepared, prepare
from training.data.settings import DataSettings, MaskingSettings
from training.data.tokenization import TokenIds

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class NegativeSettings:
    """What masking must know of the loss section: how many wrong tokens to draw for each hole, and how."""

    num_negatives: int = 32
    negative_sampling: str = "uniform"


@dataclass(frozen=True)
class FamilyData:
    """The data side of a family.

    Attributes:
        data_settings, masking_settings: dataclasses of the recipe's sections `data` and `masking`.
        prepare: (data settings, model length, tokenizer or None) -> Prepared.
        make_collator: (tokenizer) -> rows to a batch, without randomness.
        make_masker: (masking settings, tokenizer, seed, negatives, token counts) -> (batch, progress) to a masked batch.
    """

    data_settings: type[DataSettings]
    masking_settings: type[MaskingSettings]
    prepare: Callable[[DataSettings, int, PreTrainedTokenizerFast | None], Prepared]
    make_collator: Callable[[PreTrainedTokenizerFast], TextCollator]
    make_masker: Callable[
        [MaskingSettings, PreTrainedTokenizerFast, int, NegativeSettings, np.ndarray | None],
        Callable[[Batch, float], Batch],
    ]


def _text_collator(tokenizer: PreTrainedTokenizerFast) -> TextCollator:
    return TextCollator(pad_token_id=tokenizer.pad_token_id)


def _text_masker(
    settings: MaskingSettings,
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    negatives: NegativeSettings,
    token_counts: np.ndarray | None,
) -> TextMasker:
    tokens = TokenIds.from_tokenizer(tokenizer)
    return TextMasker(settings, tokens, seed, negatives.num_negatives, negatives.negative_sampling, token_counts)


FAMILIES: dict[str, FamilyData] = {
    "text_jepa": FamilyData(
        data_settings=DataSettings,
        masking_settings=MaskingSettings,
        prepare=prepare,
        make_collator=_text_collator,
        make_masker=_text_masker,
    ),
}
