"""What training needs to know about a bigram model, beyond what all families share."""

from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.fifth_family.configuration_bigram import BigramConfig
from tests.fifth_family.modeling_bigram import BigramForCausalLM
from tests.fifth_family.scorer_bigram import score_rows
from training.data.prepared import Prepared
from training.family import CardStyle, Family


class Bigram(Family):
    """The bigram model."""

    name = BigramConfig.model_type
    config_class = BigramConfig
    model_class = BigramForCausalLM
    auto_class = AutoModelForCausalLM
    perplexity_of = "cross_entropy"
    card = CardStyle(
        template=Path(__file__).with_name("template_bigram.md"),
        task="text-generation",
        claimed=("perplexity",),
        figures=("perplexity",),
        milestone_figures=("loss", "perplexity"),
    )

    def score_held_out(self, model: PreTrainedModel, prepared: Prepared, max_rows: int) -> dict[str, Any]:
        """Perplexity."""
        return score_rows(model, prepared.valid, max_rows).metrics
