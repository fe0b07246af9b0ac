"""What each model family takes of the data layer. Another family is one more entry.

`training/family.py` joins these with configs, models and scorers; `eval` uses them alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import datasets
import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from configuration_jepa import DialogueJepaConfig, StagedGeneratorConfig, TextJepaConfig, VideoJepaConfig
from training.common.errors import InputError
from training.data.collators import BlockCollator, PairCollator, TextCollator
from training.data.dialogue_jepa.pairs import DialogueMasker, PairDataset, prepare_pairs
from training.data.prepared import Prepared, prepare
from training.data.sampling import PassDataset
from training.data.settings import (
    DataSettings,
    DialogueDataSettings,
    GeneratorDataSettings,
    MaskingSettings,
    NoMaskingSettings,
    SourceSettings,
    VideoDataSettings,
    VideoMaskingSettings,
)
from training.data.staged_generator.blocks import BlockDataset, CausalLabels, prepare_blocks
from training.data.staged_generator.stream import GeneratorStream
from training.data.streaming import LikeLengths, TextStream
from training.data.text_jepa.masking import TextMasker
from training.data.tokenization import TokenIds
from training.data.video_jepa.clips import ClipCollator, ClipDataset
from training.data.video_jepa.frame_tokenizer import FrameTokenizer
from training.data.video_jepa.masking import VideoMasker
from training.data.video_jepa.prepared import PreparedClips, prepare_clips

Batch = dict[str, torch.Tensor]
# What makes tokens of rows: both have a length (the vocabulary's), the ids of special tokens and `save_pretrained`.
Tokenizer = PreTrainedTokenizerFast | FrameTokenizer


class MakeStream(Protocol):
    """Opens the training rows of a run with `streaming`."""

    def __call__(self, prepared: Prepared, *, seed: int, turn: int, group_size: int | None) -> TextStream:
        """`turn`: rows of a batch, times the processes; `group_size`: of groups of like length, None for none."""


class MakeMasker(Protocol):
    """Builds what masks a batch."""

    def __call__(
        self,
        settings: Any,
        tokenizer: Any,
        *,
        seed: int,
        config: Any,
        token_counts: np.ndarray | None = None,
    ) -> Callable[[Batch, float], Batch]:
        """(batch, share of the steps done) -> the model's inputs.

        Args:
            settings: of the family's `masking_settings`.
            tokenizer: the family's kind of `Tokenizer`.
            config: the model's configuration; what the loss must be given, such as negatives, is drawn as it says.
            token_counts: (vocabulary,) of the training part.
        """


@dataclass(frozen=True)
class FamilyData:
    """The data side of a family.

    Attributes:
        data_settings, masking_settings: dataclasses of the recipe's sections `data` and `masking`.
        prepare: (data settings, a configuration with the model's lengths, tokenizer or None) -> Prepared.
        make_dataset: (an encoded split) -> what the data loader reads by (row index, pass index).
        make_stream: instead of it where the rows are streamed.
        make_collator: (tokenizer) -> rows to a batch, without randomness.
        make_masker: (masking settings, tokenizer, ...) -> batches to masked batches.
    """

    data_settings: type[SourceSettings] | type[VideoDataSettings]
    masking_settings: type[MaskingSettings] | type[NoMaskingSettings] | type[VideoMaskingSettings]
    prepare: Callable[[Any, Any, Any], Prepared]
    make_dataset: Callable[[datasets.Dataset], PassDataset | ClipDataset]
    make_stream: MakeStream
    make_collator: Callable[[Any], TextCollator | BlockCollator | PairCollator | ClipCollator]
    make_masker: MakeMasker


def _prepare_text(
    settings: DataSettings, config: TextJepaConfig, tokenizer: PreTrainedTokenizerFast | None
) -> Prepared:
    return prepare(settings, config.max_position_embeddings, tokenizer)


def _text_stream(prepared: Prepared, *, seed: int, turn: int, group_size: int | None) -> TextStream:
    arrange = LikeLengths(group_size)
    return TextStream(prepared.settings, prepared.tokenizer, prepared.max_length, seed, turn, arrange)


def _text_collator(tokenizer: PreTrainedTokenizerFast) -> TextCollator:
    return TextCollator(pad_token_id=tokenizer.pad_token_id)


def _text_masker(
    settings: MaskingSettings,
    tokenizer: PreTrainedTokenizerFast,
    *,
    seed: int,
    config: TextJepaConfig,
    token_counts: np.ndarray | None = None,
) -> TextMasker:
    tokens = TokenIds.from_tokenizer(tokenizer)
    negatives = config.num_negatives
    if config.ranking != "sampled":  # they are for a figure alone: as many as a small vocabulary has
        negatives = min(negatives, tokens.vocab_size - len(tokens.special_ids) - 1)
    return TextMasker(settings, tokens, seed, negatives, config.negative_sampling, token_counts)


def _prepare_blocks(
    settings: GeneratorDataSettings, config: StagedGeneratorConfig, tokenizer: PreTrainedTokenizerFast | None
) -> Prepared:
    return prepare_blocks(settings, config.max_position_embeddings, tokenizer)


def _block_stream(prepared: Prepared, *, seed: int, turn: int, group_size: int | None) -> GeneratorStream:
    return GeneratorStream(prepared.settings, prepared.tokenizer, prepared.max_length, seed, turn)


def _block_collator(tokenizer: PreTrainedTokenizerFast) -> BlockCollator:
    return BlockCollator(pad_token_id=tokenizer.pad_token_id)


def _causal_labels(
    settings: NoMaskingSettings,
    tokenizer: PreTrainedTokenizerFast,
    *,
    seed: int,
    config: Any,
    token_counts: np.ndarray | None = None,
) -> CausalLabels:
    return CausalLabels()


def _prepare_pairs(
    settings: DialogueDataSettings, config: DialogueJepaConfig, tokenizer: PreTrainedTokenizerFast | None
) -> Prepared:
    return prepare_pairs(settings, config.max_position_embeddings, tokenizer, config.max_reply_length)


def _no_stream(prepared: Prepared, *, seed: int, turn: int, group_size: int | None) -> TextStream:
    raise InputError("streaming: replies are not streamed; leave it out")


def _pair_collator(tokenizer: PreTrainedTokenizerFast) -> PairCollator:
    return PairCollator(pad_token_id=tokenizer.pad_token_id)


def _dialogue_masker(
    settings: NoMaskingSettings,
    tokenizer: PreTrainedTokenizerFast,
    *,
    seed: int,
    config: DialogueJepaConfig,
    token_counts: np.ndarray | None = None,
) -> DialogueMasker:
    return DialogueMasker(config.decoder_latent)


def _prepare_clips(
    settings: VideoDataSettings, config: VideoJepaConfig, tokenizer: FrameTokenizer | None
) -> PreparedClips:
    return prepare_clips(settings, config, tokenizer)


def _no_clip_stream(prepared: Prepared, *, seed: int, turn: int, group_size: int | None) -> TextStream:
    raise InputError("streaming: clips are made when they are needed; leave it out")


def _clip_collator(tokenizer: FrameTokenizer) -> ClipCollator:
    return ClipCollator()


def _video_masker(
    settings: VideoMaskingSettings,
    tokenizer: FrameTokenizer,
    *,
    seed: int,
    config: VideoJepaConfig,
    token_counts: np.ndarray | None = None,
) -> VideoMasker:
    return VideoMasker(settings, tokenizer, seed, config.max_position_embeddings)


FAMILIES: dict[str, FamilyData] = {
    "text_jepa": FamilyData(
        data_settings=DataSettings,
        masking_settings=MaskingSettings,
        prepare=_prepare_text,
        make_dataset=PassDataset,
        make_stream=_text_stream,
        make_collator=_text_collator,
        make_masker=_text_masker,
    ),
    "staged_generator": FamilyData(
        data_settings=GeneratorDataSettings,
        masking_settings=NoMaskingSettings,
        prepare=_prepare_blocks,
        make_dataset=BlockDataset,
        make_stream=_block_stream,
        make_collator=_block_collator,
        make_masker=_causal_labels,
    ),
    "dialogue_jepa": FamilyData(
        data_settings=DialogueDataSettings,
        masking_settings=NoMaskingSettings,
        prepare=_prepare_pairs,
        make_dataset=PairDataset,
        make_stream=_no_stream,
        make_collator=_pair_collator,
        make_masker=_dialogue_masker,
    ),
    "video_jepa": FamilyData(
        data_settings=VideoDataSettings,
        masking_settings=VideoMaskingSettings,
        prepare=_prepare_clips,
        make_dataset=ClipDataset,
        make_stream=_no_clip_stream,
        make_collator=_clip_collator,
        make_masker=_video_masker,
    ),
}
