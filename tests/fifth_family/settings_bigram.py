"""What the recipes of a bigram model may hold beside what all families share."""

from dataclasses import dataclass, field
from typing import ClassVar

from training.settings.common import EvaluationSettings


@dataclass
class BigramEvaluationSettings(EvaluationSettings):
    """The `evaluation` section."""

    best_metrics: ClassVar[tuple[str, ...]] = ("perplexity",)
    lower_is_better: ClassVar[tuple[str, ...]] = ("perplexity",)

    best_metric: str = field(default="perplexity", metadata={"help": "decides which checkpoint is kept"})
