"""What each model family takes of the data layer. Another family is one more class and one more entry.

`training/family.py` joins these with configs, models and scorers; `eval` uses them alone.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import datasets
import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from configuration_jepa import DialogueJepaConfig, StagedGeneratorConfig, TextJepaConfig, VideoJepaConfig
from training.common.errors import InputError
from training.data.collators import TextCollator
from training.data.dialogue_jepa.pairs import DialogueMasker, PairPreparation
from training.data.prepared import Preparation, Prepared
from training.data.sampling import PassDataset
from training.data.settings import (
    DataSettings,
    DialogueDataSettings,
    GeneratorDataSettings,
    LabelledDataSettings,
    MaskingSettings,
    NoMaskingSettings,
    SourceSettings,
    VideoDataSettings,
    VideoMaskingSettings,
)
from training.data.staged_generator.blocks import BlockPreparation, CausalLabels
from training.data.staged_generator.stream import GeneratorStream, PackedBlocks
from training.data.streaming import LikeLengths, TextStream
from training.data.text_classifier.rows import LabelledCollator, LabelledDataset, LabelledPreparation, without_keys
from training.data.text_jepa.candidates import SharedCandidates
from training.data.text_jepa.masking import TextMasker
from training.data.text_jepa.rows import RowPreparation
from training.data.tokenization import TokenIds
from training.data.video_jepa.clips import ClipCollator, ClipDataset
from training.data.video_jepa.frame_tokenizer import FrameTokenizer
from training.data.video_jepa.masking import VideoMasker
from training.data.video_jepa.prepared import prepare_clips

Batch = dict[str, torch.Tensor]
# (masked batches of a step in this process, step, share of the steps done, sum over processes) -> inputs of each batch
StepInputs = Callable[[list[Batch], int, float, Callable[[torch.Tensor], torch.Tensor]], Batch]
# What makes tokens of rows: both have a length (the vocabulary's), the ids of special tokens and `save_pretrained`.
Tokenizer = PreTrainedTokenizerFast | FrameTokenizer


class FamilyData:
    """The data side of a family.

    Attributes:
        data_settings, masking_settings: dataclasses of the recipe's sections `data` and `masking`.
        no_stream: why its rows are not streamed; None where they are.
        unit: what a text of its data is called; None for data that are no texts.
    """

    data_settings: ClassVar[type[SourceSettings] | type[VideoDataSettings]]
    masking_settings: ClassVar[type[MaskingSettings] | type[NoMaskingSettings] | type[VideoMaskingSettings]]
    no_stream: ClassVar[str | None] = None
    unit: ClassVar[str | None] = None

    def preparation(self, settings: Any, config: Any) -> Preparation:
        """How texts become rows: `config` has the model's lengths."""
        raise NotImplementedError

    def prepare(self, settings: Any, config: Any, tokenizer: Any) -> Prepared:
        """The data of a run; without a tokenizer (None) one is built."""
        return self.preparation(settings, config).prepare(tokenizer)

    def make_dataset(self, encoded: datasets.Dataset) -> PassDataset | ClipDataset:
        """What the data loader reads of an encoded split, by (row index, pass index)."""
        return PassDataset(encoded)

    def make_stream(self, prepared: Prepared, *, seed: int, turn: int, group_size: int | None) -> TextStream:
        """Instead of it, the training rows of a run with `streaming`.

        Args:
            turn: rows of a batch, times the processes.
            group_size: of groups of like length, None for none.
        """
        raise InputError(f"streaming: {self.no_stream}; leave it out")

    def make_collator(self, tokenizer: Any) -> Callable[[Any], Batch]:
        """Rows to a batch, without randomness."""
        return TextCollator(pad_token_id=tokenizer.pad_token_id)

    def make_masker(
        self, settings: Any, tokenizer: Any, *, seed: int, config: Any, token_counts: np.ndarray | None = None
    ) -> Callable[[Batch, float], Batch]:
        """(batch, share of the steps done) -> the model's inputs.

        Args:
            settings: of the family's `masking_settings`.
            tokenizer: the family's kind of `Tokenizer`.
            config: the model's configuration; what the loss must be given, such as negatives, is drawn as it says.
            token_counts: (vocabulary,) of the training part.
        """
        raise NotImplementedError

    def make_step_inputs(
        self, tokenizer: Any, *, seed: int, config: Any, token_counts: np.ndarray | None = None
    ) -> StepInputs | None:
        """What all batches of a step share; None for nothing. Arguments as of `make_masker`."""
        return None


class TextData(FamilyData):
    """Phrases, some of their tokens hidden."""

    data_settings = DataSettings
    masking_settings = MaskingSettings
    unit = "rows"

    def preparation(self, settings: DataSettings, config: TextJepaConfig) -> RowPreparation:  # noqa: D102
        return RowPreparation(settings, config.max_position_embeddings)

    def make_stream(self, prepared: Prepared, *, seed: int, turn: int, group_size: int | None) -> TextStream:  # noqa: D102
        arrange = LikeLengths(group_size)
        return TextStream(prepared.settings, prepared.tokenizer, prepared.max_length, seed, turn, arrange)

    def make_masker(self, settings, tokenizer, *, seed, config, token_counts=None) -> TextMasker:  # noqa: D102
        tokens = TokenIds.from_tokenizer(tokenizer)
        negatives = config.num_negatives
        if config.ranking != "sampled":  # they are for a figure alone: as many as a small vocabulary has
            negatives = min(negatives, tokens.vocab_size - len(tokens.special_ids) - 1)
        return TextMasker(settings, tokens, seed, negatives, config.negative_sampling, token_counts)

    def make_step_inputs(self, tokenizer, *, seed, config, token_counts=None) -> SharedCandidates | None:  # noqa: D102
        if getattr(config, "ranking", None) != "shared":  # another family may read the same rows
            return None
        tokens = TokenIds.from_tokenizer(tokenizer)
        return SharedCandidates(tokens, token_counts, config.num_candidates, 1 - config.full_ranking_share, seed)


class ClassifierData(FamilyData):
    """Texts with their labels, nothing hidden."""

    data_settings = LabelledDataSettings
    masking_settings = NoMaskingSettings
    no_stream = "labelled rows are not streamed"
    unit = "rows"

    def preparation(self, settings: LabelledDataSettings, config: TextJepaConfig) -> LabelledPreparation:  # noqa: D102
        return LabelledPreparation(settings, config.max_position_embeddings)

    def make_dataset(self, encoded: datasets.Dataset) -> LabelledDataset:  # noqa: D102
        return LabelledDataset(encoded)

    def make_collator(self, tokenizer: Any) -> LabelledCollator:  # noqa: D102
        return LabelledCollator(pad_token_id=tokenizer.pad_token_id)

    def make_masker(self, settings, tokenizer, *, seed, config, token_counts=None) -> Callable[[Batch, float], Batch]:  # noqa: D102
        return without_keys


class GeneratorData(FamilyData):
    """Documents, packed into blocks."""

    data_settings = GeneratorDataSettings
    masking_settings = NoMaskingSettings
    unit = "documents"

    def preparation(self, settings: GeneratorDataSettings, config: StagedGeneratorConfig) -> BlockPreparation:  # noqa: D102
        return BlockPreparation(settings, config.max_position_embeddings)

    def make_stream(self, prepared: Prepared, *, seed: int, turn: int, group_size: int | None) -> GeneratorStream:  # noqa: D102
        arrange = PackedBlocks(prepared.max_length, seed)
        return GeneratorStream(prepared.settings, prepared.tokenizer, prepared.max_length, seed, turn, arrange)

    def make_masker(self, settings, tokenizer, *, seed, config, token_counts=None) -> CausalLabels:  # noqa: D102
        return CausalLabels()


class DialogueData(FamilyData):
    """Contexts and their replies."""

    data_settings = DialogueDataSettings
    masking_settings = NoMaskingSettings
    no_stream = "replies are not streamed"
    unit = "turns"

    def preparation(self, settings: DialogueDataSettings, config: DialogueJepaConfig) -> PairPreparation:  # noqa: D102
        return PairPreparation(settings, config.max_position_embeddings, config.max_reply_length)

    def make_masker(self, settings, tokenizer, *, seed, config, token_counts=None) -> DialogueMasker:  # noqa: D102
        return DialogueMasker(config.decoder_latent)


class VideoData(FamilyData):
    """Clips, some of their codes hidden."""

    data_settings = VideoDataSettings
    masking_settings = VideoMaskingSettings
    no_stream = "clips are made when they are needed"

    def prepare(self, settings: VideoDataSettings, config: VideoJepaConfig, tokenizer: Any) -> Prepared:  # noqa: D102
        return prepare_clips(settings, config, tokenizer)

    def make_dataset(self, encoded: datasets.Dataset) -> ClipDataset:  # noqa: D102
        return ClipDataset(encoded)

    def make_collator(self, tokenizer: FrameTokenizer) -> ClipCollator:  # noqa: D102
        return ClipCollator()

    def make_masker(self, settings, tokenizer, *, seed, config, token_counts=None) -> VideoMasker:  # noqa: D102
        return VideoMasker(settings, tokenizer, seed, config.max_position_embeddings)


FAMILIES: dict[str, FamilyData] = {
    "text_jepa": TextData(),
    "text_classifier": ClassifierData(),
    "staged_generator": GeneratorData(),
    "dialogue_jepa": DialogueData(),
    "video_jepa": VideoData(),
}
