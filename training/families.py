"""Family -> configuration, model, data and scorer: joined here, repeating nothing.

The configurations are light and are needed to check a recipe; the rest is imported when a run really starts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from configuration_jepa import JepaConfig, TextJepaConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from training.data.families import FamilyData

CONFIGS: dict[str, type[JepaConfig]] = {config.model_type: config for config in (TextJepaConfig,)}
DEFAULT_FAMILY = TextJepaConfig.model_type


@dataclass(frozen=True)
class Family:
    """What training needs to know about a family.

    Attributes:
        model_class: built from `config_class`; its forward gives `loss` and `loss_parts`.
        data: how rows are prepared, stacked and masked.
        score_held_out: (model, tokenizer, dataset, max_rows) -> figures; bounded memory, no random state.
        sample: (model, tokenizer, phrase) -> one line of text that shows what the model says.
    """

    config_class: type[JepaConfig]
    model_class: type["PreTrainedModel"]
    data: "FamilyData"
    score_held_out: Callable[["PreTrainedModel", "PreTrainedTokenizerBase", Any, int], dict[str, Any]]
    sample: Callable[["PreTrainedModel", "PreTrainedTokenizerBase", str], str]


def family_names() -> tuple[str, ...]:
    """All families that can be trained."""
    return tuple(CONFIGS)


def config_class_of(family: str) -> type[JepaConfig]:
    """The configuration class of a family."""
    return CONFIGS[family]


def load_family(name: str) -> Family:
    """Everything about a family; imports torch, the models and the scorers."""
    from modeling_jepa import TextJepaForMaskedLM
    from training.data.families import FAMILIES

    models = {"text_jepa": TextJepaForMaskedLM}
    return Family(CONFIGS[name], models[name], FAMILIES[name], _score_blanks, _fill_phrase)


def _score_blanks(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", dataset: Any, max_rows: int
) -> dict[str, Any]:
    from eval.scorers.text_jepa import score_rows

    scores = score_rows(model, tokenizer, dataset, model.token_counts, max_rows=max_rows)
    unigram = scores.baselines["unigram"]
    return {
        **scores.metrics,
        "unigram_top1": unigram["top1"],
        "unigram_mrr": unigram["mrr"],
        "top_token_share": scores.metrics["most_predicted"][0][1],
    }


def _fill_phrase(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", phrase: str) -> str:
    from eval.fill_blank import fill_blank
    from training.data.errors import InputError

    try:
        guesses = fill_blank(model, tokenizer, phrase).guesses
    except InputError as error:  # a word that this vocabulary lacks is no reason to stop a run
        return f"{phrase}: {error}"
    return f"{phrase}: {', '.join(guess.token for guess in guesses)}"
