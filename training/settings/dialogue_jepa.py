"""What the recipes of the dialogue model may hold beside what all families share. Imports no torch."""

from dataclasses import dataclass
from typing import Any, ClassVar

from training.common.errors import InputError
from training.common.options import Allowed, at_least, one_of, option
from training.data.settings import TRAINED_TOKENIZERS
from training.settings.common import RATE, EvaluationSettings, OptimizerSettings

DECODER_RATE = 1 / 3  # of the learning rate, where the recipe says nothing


@dataclass
class DialogueTrainingSettings(OptimizerSettings):
    """The `training` section of a recipe of the dialogue model."""

    adaptable: ClassVar[str] = "give its checkpoint with --init_from, or a pretrained_decoder"

    per_device_train_batch_size: int = option(
        32, "pairs per process and forward pass; each ranks its reply among those of its batch", at_least(1)
    )
    optimizer: str = option(
        "adamw",
        "adamw, or muon: Muon for the matrices of encoder, predictor and decoder, AdamW for the rest",
        one_of("adamw", "muon"),
    )
    decoder_learning_rate: float | None = option(
        None,
        "peak rate of the decoder, what projects into a pretrained one included (default: a third of learning_rate)",
        RATE,
    )
    pretrained_decoder: str | None = option(
        None,
        "a causal language model's folder or Hub id that takes the decoder's place; its tokenizer is the run's",
        Allowed(lambda name: bool(name.strip()), "a folder, a Hub id, or null"),
    )
    freeze_decoder: bool = option(
        False, "keep a pretrained decoder as it is: only what it reads of the latents, and of the context, is learnt"
    )
    lora_rank: int = option(
        0,
        "rank of LoRA on a pretrained decoder, else on the checkpoint of init_from; their weights stay as they "
        "are; 0: no LoRA",
        at_least(0),
    )

    @property
    def decoder_rate(self) -> float:
        """`decoder_learning_rate`, or its default."""
        given = self.decoder_learning_rate
        return self.learning_rate * DECODER_RATE if given is None else given

    @property
    def adapts_checkpoint(self) -> bool:
        """Beside a pretrained decoder, reader and predictor learn too."""
        return self.lora_rank > 0 and self.pretrained_decoder is None

    @classmethod
    def refuse_given(cls, values: dict[str, Any]) -> None:
        """A tokenizer that is asked for is not silently replaced by the decoder's; by default it is."""
        decoder, asked = values.get("pretrained_decoder"), values.get("tokenizer")
        if decoder is not None and asked in TRAINED_TOKENIZERS:
            raise InputError(
                f"tokenizer: {asked} was asked for, and pretrained_decoder {decoder} says tokens of its own; leave it "
                "out, and the decoder's is used"
            )

    def validate(self) -> None:
        """See `TrainingSettings.validate`."""
        super().validate()
        if self.pretrained_decoder is None and self.freeze_decoder:
            raise InputError("freeze_decoder=true is for a pretrained decoder: give one, or leave it out")
        if self.freeze_decoder and self.lora_rank:
            raise InputError(f"freeze_decoder=true and lora_rank={self.lora_rank} exclude each other: keep one.")


@dataclass
class DialogueEvaluationSettings(EvaluationSettings):
    """The `evaluation` section of a recipe of the dialogue model."""

    best_metrics: ClassVar[tuple[str, ...]] = ("perplexity", "accuracy", "mrr", "hits_at_1")
    lower_is_better: ClassVar[tuple[str, ...]] = best_metrics[:1]

    eval_rows: int = option(300, "held-out pairs scored during training, a seeded subset", at_least(1))
    best_metric: str = option("perplexity", "decides which checkpoint is kept: " + ", ".join(best_metrics))
    sample_phrases: list[str] = option(
        [], "messages, answered greedily, by top-k and by retrieval side by side at every milestone"
    )
    score_rows: int | None = option(2000, "test pairs of that score, a seeded subset; null for all", at_least(1))
