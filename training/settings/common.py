"""Settings of a run that are about training and evaluation, with the help that `--help` prints. Imports no torch.

Names are those of `transformers.TrainingArguments` where it has them. The settings of data and masking live in
`training/data/settings.py`, those of model and loss in the configuration of the family.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from training.common.errors import InputError


def _help(text: str) -> dict[str, str]:
    return {"help": text}


OPTIMIZERS = ("adamw", "muon")
# What `transformers.TrainingArguments.report_to` takes.
TRACKERS = tuple(
    "none all azure_ml clearml codecarbon comet_ml dagshub dvclive flyte kubeflow mlflow neptune swanlab tensorboard "
    "trackio wandb".split()
)


@dataclass
class TrainingSettings:
    """The `training` section of a recipe."""

    # What `lora_rank` can adapt, as an error says it.
    adaptable: ClassVar[str] = "give its checkpoint with --init_from"

    max_steps: int = field(default=2000, metadata=_help("optimizer steps of the whole run"))
    per_device_train_batch_size: int = field(default=64, metadata=_help("rows per process and forward pass"))
    gradient_accumulation_steps: int = field(default=1, metadata=_help("forward passes per optimizer step"))
    learning_rate: float = field(default=1e-3, metadata=_help("peak rate; 1e-4 to 5e-3 are sensible"))
    final_learning_rate: float = field(default=1e-5, metadata=_help("floor: where warm-up starts and the cosine ends"))
    warmup_steps: int | None = field(
        default=None, metadata=_help("steps of linear warm-up (default: 5 % of the run, at most 1,000)")
    )
    constant_share: float = field(
        default=0.25, metadata=_help("share of the steps after warm-up that stay at the peak rate (0 to 1)")
    )
    weight_decay: float = field(
        default=0.01, metadata=_help("AdamW's decoupled decay of matrices (not of norms and biases)")
    )
    adam_beta1: float = field(default=0.9, metadata=_help("AdamW's first momentum"))
    adam_beta2: float = field(default=0.98, metadata=_help("AdamW's second momentum"))
    max_grad_norm: float = field(
        default=1.0, metadata=_help("gradients are clipped to this norm; 0 turns clipping off")
    )
    seed: int = field(default=1, metadata=_help("decides initial weights, order of the rows, masks and dropout"))
    bf16: bool = field(
        default=False, metadata=_help("bfloat16 autocast; on a CPU that would have to emulate it float32")
    )
    fp16: bool = field(default=False, metadata=_help("float16 autocast with loss scaling (CUDA only)"))
    gradient_checkpointing: bool = field(
        default=False, metadata=_help("recompute activations in the backward pass: less memory, slower")
    )
    torch_compile: bool = field(default=False, metadata=_help("compile the model with torch.compile"))
    logging_steps: int = field(default=50, metadata=_help("a log row every so many steps"))
    save_steps: int = field(default=500, metadata=_help("a checkpoint every so many steps (and at every new best)"))
    save_total_limit: int = field(
        default=2, metadata=_help("newest checkpoints kept; the best one is kept beside them")
    )
    group_by_length: bool = field(
        default=True, metadata=_help("put rows of like length into one batch: less padding, so faster")
    )
    dataloader_num_workers: int = field(default=0, metadata=_help("worker processes that read rows"))
    lora_rank: int = field(
        default=0,
        metadata=_help("rank of LoRA on the checkpoint of init_from, whose own weights stay as they are; 0: no LoRA"),
    )
    on_non_finite: str = field(
        default="stop",
        metadata=_help("what to do where loss or gradient is NaN or infinite: stop, or skip the step and count it"),
    )
    report_to: str = field(
        default="none", metadata=_help("trackers, comma-separated: none, tensorboard, wandb, mlflow, trackio, ...")
    )
    run_name: str | None = field(
        default=None, metadata=_help("name of the run for trackers (default: the output folder's)")
    )

    @property
    def num_warmup_steps(self) -> int:
        """`warmup_steps`, or its default for this length of run."""
        return min(1000, self.max_steps // 20) if self.warmup_steps is None else self.warmup_steps

    @property
    def adapts_checkpoint(self) -> bool:
        """Whether only adapters learn, on a whole model that is there already."""
        return self.lora_rank > 0

    @classmethod
    def refuse_given(cls, values: dict[str, Any]) -> None:
        """Raise `InputError` for keys of a recipe (name -> value, of all sections) that exclude each other."""

    def validate(self) -> None:
        """Check ranges and contradictions. Raises `InputError` naming setting, value and what is allowed."""
        at_least = {"max_steps": 1, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1}
        at_least |= {"logging_steps": 1, "save_steps": 1, "save_total_limit": 1}
        at_least |= {"dataloader_num_workers": 0, "seed": 0, "weight_decay": 0, "max_grad_norm": 0, "lora_rank": 0}
        for name, low in at_least.items():
            require(self, name, getattr(self, name) >= low, f"at least {low}")
        for name in ("adam_beta1", "adam_beta2"):
            require(self, name, 0 <= getattr(self, name) < 1, "at least 0 and below 1")
        require(self, "warmup_steps", self.num_warmup_steps >= 0, "at least 0")
        require(self, "learning_rate", 0 < self.learning_rate < 1, "above 0 and below 1 (1e-3 is usual)")
        require(self, "constant_share", 0 <= self.constant_share <= 1, "from 0 to 1")
        if not 0 <= self.final_learning_rate <= self.learning_rate:
            raise InputError(
                f"final_learning_rate={self.final_learning_rate:g} must lie between 0 and "
                f"learning_rate={self.learning_rate:g}: lower it, or raise learning_rate."
            )
        if self.warmup_steps is not None and self.warmup_steps >= self.max_steps:
            raise InputError(
                f"warmup_steps={self.warmup_steps} must be below max_steps={self.max_steps}: "
                "lower warmup_steps (5 % of the run is usual), or raise max_steps."
            )
        require(self, "on_non_finite", self.on_non_finite in ("stop", "skip"), "stop or skip")
        trackers = [name.strip() for name in self.report_to.split(",")]
        alone = len(trackers) == 1 or not {"none", "all"} & set(trackers)
        known = alone and set(trackers) <= set(TRACKERS)
        require(self, "report_to", known, f"none, all, or some of {', '.join(TRACKERS[2:])}, comma-separated")
        if self.bf16 and self.fp16:
            raise InputError("bf16=true and fp16=true exclude each other: keep one.")


@dataclass
class OptimizerSettings(TrainingSettings):
    """The `training` section of a family that may be trained with Muon."""

    weight_decay: float = field(
        default=0.1, metadata=_help("decoupled decay of matrices and tables (not of norms and biases)")
    )
    adam_beta2: float = field(default=0.95, metadata=_help("AdamW's second momentum"))
    optimizer: str = field(
        default="adamw",
        metadata=_help("adamw, or muon: Muon for the matrices of the trunk, AdamW for tables, norms and the rest"),
    )
    muon_momentum: float = field(default=0.95, metadata=_help("Muon's Nesterov momentum"))

    def validate(self) -> None:
        """See `TrainingSettings.validate`."""
        super().validate()
        require(self, "optimizer", self.optimizer in OPTIMIZERS, "one of " + ", ".join(OPTIMIZERS))
        require(self, "muon_momentum", 0 <= self.muon_momentum < 1, "at least 0 and below 1")


@dataclass
class EvaluationSettings:
    """The `evaluation` section of a recipe."""

    # What may decide which checkpoint is kept, and of them what is better when lower.
    best_metrics: ClassVar[tuple[str, ...]] = ("mrr", "top1", "top5", "top10", "acc_ema")
    lower_is_better: ClassVar[tuple[str, ...]] = ()
    # Not a setting here: a family that shows samples between milestones too makes it one.
    sample_steps = None

    eval_steps: int = field(default=500, metadata=_help("score the held-out rows every so many steps, and at the end"))
    eval_rows: int = field(
        default=500, metadata=_help("held-out rows scored during training, a seeded subset; each has up to 4 holes")
    )
    best_metric: str = field(
        default="mrr", metadata=_help("decides which checkpoint is kept: mrr, top1, top5, top10 or acc_ema")
    )
    best_smoothing: float = field(
        default=0.5, metadata=_help("share of its old value that the smoothed best_metric keeps (0 to below 1)")
    )
    milestones: list[int] = field(
        default_factory=lambda: [0, 100, 500, 1000, 5000],
        metadata=_help("steps whose figures and samples stand in the card"),
    )
    sample_phrases: list[str] = field(
        default_factory=list, metadata=_help("phrases with one blank (_), filled at every milestone")
    )
    final_score: bool = field(
        default=True, metadata=_help("score the best checkpoint on the test part when training ends")
    )
    score_rows: int | None = field(
        default=2000, metadata=_help("test rows of that score, a seeded subset; null for all")
    )

    def validate(self) -> None:
        """Check ranges. Raises `InputError` naming setting, value and what is allowed."""
        require(self, "eval_steps", self.eval_steps >= 1, "at least 1")
        require(self, "eval_rows", self.eval_rows >= 1, "at least 1")
        require(self, "score_rows", self.score_rows is None or self.score_rows >= 1, "at least 1, or null for all")
        require(self, "best_smoothing", 0 <= self.best_smoothing < 1, "at least 0 and below 1")
        require(self, "milestones", all(step >= 0 for step in self.milestones), "steps of at least 0")
        allowed = self.best_metrics
        require(self, "best_metric", self.best_metric in allowed, "one of " + ", ".join(allowed))


def require(settings: Any, name: str, holds: bool, allowed: str) -> None:
    """Raise `InputError` naming setting, value and what is allowed, unless `holds`."""
    if not holds:
        raise InputError(f"{name}={getattr(settings, name)!r} is not possible: it must be {allowed}.")
