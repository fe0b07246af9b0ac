"""What the recipes of the dialogue model may hold beside what all families share. Imports no torch."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from training.common.errors import InputError
from training.data.settings import TRAINED_TOKENIZERS
from training.settings.common import EvaluationSettings, OptimizerSettings, require

DECODER_RATE = 1 / 3  # of the learning rate, where the recipe says nothing


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@dataclass
class DialogueTrainingSettings(OptimizerSettings):
    """The `training` section of a recipe of the dialogue model."""

    adaptable: ClassVar[str] = "give its checkpoint with --init_from, or a pretrained_decoder"

    per_device_train_batch_size: int = field(
        default=32, metadata=_help("pairs per process and forward pass; each ranks its reply among those of its batch")
    )
    optimizer: str = field(
        default="adamw",
        metadata=_help("adamw, or muon: Muon for the matrices of encoder, predictor and decoder, AdamW for the rest"),
    )
    decoder_learning_rate: float | None = field(
        default=None,
        metadata=_help(
            "peak rate of the decoder, what projects into a pretrained one included (default: a third of "
            "learning_rate)"
        ),
    )
    pretrained_decoder: str | None = field(
        default=None,
        metadata=_help(
            "a causal language model's folder or Hub id that takes the decoder's place; its tokenizer is the run's"
        ),
    )
    freeze_decoder: bool = field(
        default=False,
        metadata=_help(
            "keep a pretrained decoder as it is: only what it reads of the latents, and of the context, is learnt"
        ),
    )
    lora_rank: int = field(
        default=0,
        metadata=_help(
            "rank of LoRA on a pretrained decoder, else on the checkpoint of init_from; their weights stay as they "
            "are; 0: no LoRA"
        ),
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
        require(self, "decoder_learning_rate", 0 < self.decoder_rate < 1, "above 0 and below 1, or null")
        pretrained = self.pretrained_decoder
        require(self, "pretrained_decoder", pretrained is None or pretrained.strip(), "a folder, a Hub id, or null")
        if pretrained is None and self.freeze_decoder:
            raise InputError("freeze_decoder=true is for a pretrained decoder: give one, or leave it out")
        if self.freeze_decoder and self.lora_rank:
            raise InputError(f"freeze_decoder=true and lora_rank={self.lora_rank} exclude each other: keep one.")


@dataclass
class DialogueEvaluationSettings(EvaluationSettings):
    """The `evaluation` section of a recipe of the dialogue model."""

    best_metrics: ClassVar[tuple[str, ...]] = ("perplexity", "accuracy", "mrr", "hits_at_1")
    lower_is_better: ClassVar[tuple[str, ...]] = best_metrics[:1]

    eval_rows: int = field(default=300, metadata=_help("held-out pairs scored during training, a seeded subset"))
    best_metric: str = field(
        default="perplexity", metadata=_help("decides which checkpoint is kept: " + ", ".join(best_metrics))
    )
    sample_phrases: list[str] = field(
        default_factory=list,
        metadata=_help("messages, answered greedily, by top-k and by retrieval side by side at every milestone"),
    )
    score_rows: int | None = field(
        default=2000, metadata=_help("test pairs of that score, a seeded subset; null for all")
    )
