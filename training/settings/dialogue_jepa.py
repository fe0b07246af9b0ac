"""What the recipes of the dialogue model may hold beside what all families share. Imports no torch."""

from dataclasses import dataclass, field
from typing import ClassVar

from training.common.errors import InputError
from training.settings.common import OPTIMIZERS, EvaluationSettings, TrainingSettings, require

DECODER_RATE = 1 / 3  # of the learning rate, where the recipe says nothing


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@dataclass
class DialogueTrainingSettings(TrainingSettings):
    """The `training` section of a recipe of the dialogue model."""

    per_device_train_batch_size: int = field(
        default=32, metadata=_help("pairs per process and forward pass; each ranks its reply among those of its batch")
    )
    weight_decay: float = field(
        default=0.1, metadata=_help("decoupled decay of matrices and tables (not of norms and biases)")
    )
    adam_beta2: float = field(default=0.95, metadata=_help("AdamW's second momentum"))
    optimizer: str = field(
        default="adamw",
        metadata=_help("adamw, or muon: Muon for the matrices of encoder, predictor and decoder, AdamW for the rest"),
    )
    muon_momentum: float = field(default=0.95, metadata=_help("Muon's Nesterov momentum"))
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

    def validate(self) -> None:
        """See `TrainingSettings.validate`."""
        super().validate()
        require(self, "optimizer", self.optimizer in OPTIMIZERS, "one of " + ", ".join(OPTIMIZERS))
        require(self, "muon_momentum", 0 <= self.muon_momentum < 1, "at least 0 and below 1")
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
