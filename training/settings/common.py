"""Settings of a run that are about training and evaluation, with the help that `--help` prints. Imports no torch.

Names are those of `transformers.TrainingArguments` where it has them. The settings of data and masking live in
`training/data/settings.py`, those of model and loss in the configuration of the family.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from training.common.errors import InputError
from training.common.options import SHARE, Allowed, at_least, check_options, one_of, option

# What `transformers.TrainingArguments.report_to` takes.
TRACKERS = tuple(
    "none all azure_ml clearml codecarbon comet_ml dagshub dvclive flyte kubeflow mlflow neptune swanlab tensorboard "
    "trackio wandb".split()
)
ABOVE_0 = Allowed(lambda value: value > 0, "a number above 0")
RATE = Allowed(lambda value: 0 < value < 1, "a rate above 0 and below 1 (1e-3 is usual)")
KEPT_SHARE = Allowed(lambda value: 0 <= value < 1, "a share from 0 to below 1")


@dataclass
class TrainingSettings:
    """The `training` section of a recipe."""

    # What `lora_rank` can adapt, as an error says it.
    adaptable: ClassVar[str] = "give its checkpoint with --init_from"

    max_steps: int = option(2000, "optimizer steps of the whole run", at_least(1))
    num_train_epochs: float | None = option(
        None, "passes over the training rows, in place of max_steps, which then follows from them", ABOVE_0
    )
    per_device_train_batch_size: int = option(64, "rows per process and forward pass", at_least(1))
    gradient_accumulation_steps: int = option(1, "forward passes per optimizer step", at_least(1))
    learning_rate: float = option(1e-3, "peak rate; 1e-4 to 5e-3 are sensible", RATE)
    final_learning_rate: float = option(1e-5, "floor: where warm-up starts and the cosine ends")
    warmup_steps: int | None = option(
        None, "steps of linear warm-up (default: 5 % of the run, at most 1,000)", at_least(0)
    )
    constant_share: float = option(0.25, "share of the steps after warm-up that stay at the peak rate (0 to 1)", SHARE)
    weight_decay: float = option(0.01, "AdamW's decoupled decay of matrices (not of norms and biases)", at_least(0))
    adam_beta1: float = option(0.9, "AdamW's first momentum", KEPT_SHARE)
    adam_beta2: float = option(0.98, "AdamW's second momentum", KEPT_SHARE)
    max_grad_norm: float = option(1.0, "gradients are clipped to this norm; 0 turns clipping off", at_least(0))
    seed: int = option(1, "decides initial weights, order of the rows, masks and dropout", at_least(0))
    bf16: bool = option(False, "bfloat16 autocast; on a CPU that would have to emulate it float32")
    fp16: bool = option(False, "float16 autocast with loss scaling (CUDA only)")
    gradient_checkpointing: bool = option(False, "recompute activations in the backward pass: less memory, slower")
    torch_compile: bool = option(False, "compile the model with torch.compile")
    logging_steps: int = option(50, "a log row every so many steps", at_least(1))
    save_steps: int = option(500, "a checkpoint every so many steps (and at every new best)", at_least(1))
    save_total_limit: int = option(2, "newest checkpoints kept; the best one is kept beside them", at_least(1))
    group_by_length: bool = option(True, "put rows of like length into one batch: less padding, so faster")
    dataloader_num_workers: int = option(0, "worker processes that read rows", at_least(0))
    lora_rank: int = option(
        0,
        "rank of LoRA on the checkpoint of init_from, whose own weights stay as they are; 0: no LoRA",
        at_least(0),
    )
    on_non_finite: str = option(
        "stop",
        "what to do where loss or gradient is NaN or infinite: stop, or skip the step and count it",
        one_of("stop", "skip"),
    )
    report_to: str = option("none", "trackers, comma-separated: none, tensorboard, wandb, mlflow, trackio, ...")
    run_name: str | None = option(None, "name of the run for trackers (default: the output folder's)")

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
        check_options(self)
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
        trackers = [name.strip() for name in self.report_to.split(",")]
        alone = len(trackers) == 1 or not {"none", "all"} & set(trackers)
        if not alone or not set(trackers) <= set(TRACKERS):
            raise InputError(
                f"report_to: got {self.report_to!r}; use none, all, or some of {', '.join(TRACKERS[2:])}, "
                "comma-separated"
            )
        if self.bf16 and self.fp16:
            raise InputError("bf16=true and fp16=true exclude each other: keep one.")


@dataclass
class OptimizerSettings(TrainingSettings):
    """The `training` section of a family that may be trained with Muon."""

    weight_decay: float = option(0.1, "decoupled decay of matrices and tables (not of norms and biases)", at_least(0))
    adam_beta2: float = option(0.95, "AdamW's second momentum", KEPT_SHARE)
    optimizer: str = option(
        "adamw",
        "adamw, or muon: Muon for the matrices of the trunk, AdamW for tables, norms and the rest",
        one_of("adamw", "muon"),
    )
    muon_momentum: float = option(0.95, "Muon's Nesterov momentum", KEPT_SHARE)


@dataclass
class EvaluationSettings:
    """The `evaluation` section of a recipe."""

    # What may decide which checkpoint is kept, and of them what is better when lower.
    best_metrics: ClassVar[tuple[str, ...]] = ("mrr", "top1", "top5", "top10", "acc_ema")
    lower_is_better: ClassVar[tuple[str, ...]] = ()
    # Not a setting here: a family that shows samples between milestones too makes it one.
    sample_steps = None

    eval_steps: int = option(500, "score the held-out rows every so many steps, and at the end", at_least(1))
    eval_rows: int = option(
        500,
        "held-out rows scored during training, a seeded subset; each has up to 4 holes",
        at_least(1),
    )
    best_metric: str = option("mrr", "decides which checkpoint is kept: mrr, top1, top5, top10 or acc_ema")
    best_smoothing: float = option(
        0.5, "share of its old value that the smoothed best_metric keeps (0 to below 1)", KEPT_SHARE
    )
    early_stopping_patience: int = option(
        0, "end the run after so many evaluations without a better best_metric; 0: never", at_least(0)
    )
    milestones: list[int] = option(
        [0, 100, 500, 1000, 5000],
        "steps whose figures and samples stand in the card",
        Allowed(lambda steps: all(step >= 0 for step in steps), "steps of 0 or more"),
    )
    sample_phrases: list[str] = option([], "phrases with one blank (_), filled at every milestone")
    own_samples: bool = option(
        True,
        "of a source other than the recipe's: show what the model says of its held-out rows; false keeps them out of "
        "log and card",
    )
    final_score: bool = option(True, "score the best checkpoint on the test part when training ends")
    score_rows: int | None = option(2000, "test rows of that score, a seeded subset; null for all", at_least(1))

    def validate(self) -> None:
        """Check ranges. Raises `InputError` naming setting, value and what is allowed."""
        check_options(self)
        one = one_of(*self.best_metrics)
        if not one.fits(self.best_metric):
            raise InputError(f"best_metric: got {self.best_metric!r}; use {one.words}")
