"""Family -> configuration, settings, model, data and scorer: joined here, repeating nothing.

The configurations and settings are light and are needed to check a recipe; the rest is imported when a run really
starts, from the family's own module beside this one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configuration_jepa import DialogueJepaConfig, JepaConfig, StagedGeneratorConfig, TextJepaConfig, VideoJepaConfig
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
from training.dialogue_settings import DialogueEvaluationSettings, DialogueTrainingSettings
from training.generator_settings import GeneratorEvaluationSettings, GeneratorTrainingSettings
from training.settings import EvaluationSettings, TrainingSettings
from training.video_settings import VideoEvaluationSettings, VideoTrainingSettings

if TYPE_CHECKING:
    from torch.nn import Module
    from torch.optim import Optimizer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from eval.rules import Verdict
    from eval.run_log import RunFacts
    from training.arguments import Run
    from training.cards import CardStyle
    from training.credit import CreditRules
    from training.data.families import FamilyData
    from training.data.prepared import Prepared
    from training.data.sources import SourceInfo


@dataclass(frozen=True)
class FamilyRecipe:
    """What a recipe of a family may hold: `config_class` has the sections `model` and `loss`."""

    config_class: type[JepaConfig]
    data: type[SourceSettings] | type[VideoDataSettings] = DataSettings
    masking: type[MaskingSettings] | type[NoMaskingSettings] | type[VideoMaskingSettings] = MaskingSettings
    training: type[TrainingSettings] = TrainingSettings
    evaluation: type[EvaluationSettings] = EvaluationSettings

    def settings_of(self, section: str) -> type[Any]:
        """The settings class of one of `SETTINGS_SECTIONS`."""
        return {
            "data": self.data,
            "masking": self.masking,
            "training": self.training,
            "evaluation": self.evaluation,
        }[section]


SETTINGS_SECTIONS = ("data", "masking", "training", "evaluation")
_GENERATOR = FamilyRecipe(
    StagedGeneratorConfig,
    GeneratorDataSettings,
    NoMaskingSettings,
    GeneratorTrainingSettings,
    GeneratorEvaluationSettings,
)
_DIALOGUE = FamilyRecipe(
    DialogueJepaConfig,
    DialogueDataSettings,
    NoMaskingSettings,
    DialogueTrainingSettings,
    DialogueEvaluationSettings,
)
_VIDEO = FamilyRecipe(
    VideoJepaConfig,
    VideoDataSettings,
    VideoMaskingSettings,
    VideoTrainingSettings,
    VideoEvaluationSettings,
)
RECIPES: dict[str, FamilyRecipe] = {
    recipe.config_class.model_type: recipe for recipe in (FamilyRecipe(TextJepaConfig), _GENERATOR, _DIALOGUE, _VIDEO)
}
DEFAULT_FAMILY = TextJepaConfig.model_type


@dataclass(frozen=True)
class Origin:
    """What a run may take from a checkpoint of another family.

    Attributes:
        auto_class: the Auto class that opens it.
        part_of: (that model) -> what is taken of it.
        place_in: (the run's model) -> the module that gets those weights, with the same parameter names.
        fields: of both configurations, which must agree.
    """

    auto_class: Any
    part_of: Callable[["PreTrainedModel"], "Module"]
    place_in: Callable[["PreTrainedModel"], "Module"]
    fields: tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """What training needs to know about a family.

    Attributes:
        model_class: built from `config_class`; its forward gives `loss` and `loss_parts`.
        auto_class: the Auto class that opens its checkpoints.
        data: how rows are prepared, stacked and masked.
        score_held_out: (model, prepared data, max_rows) -> figures; bounded memory, no random state.
        make_sample: (prepared data) -> (model, tokenizer, phrase) -> one line of text that shows what the model says.
        facts: (run, configuration, prepared data, rows per step) -> what the log patterns want to know of a run.
        data_lines: (run, prepared data) -> what a plan says of the data.
        passes_line: (run, prepared data, rows per step) -> what a plan says of how often the data is seen.
        judge: (run, prepared data, trainable parameters, rows per step) -> size and steps against the data.
        card: what its model cards look like.
        make_optimizer: (model, run) -> the optimizer; None for the library's AdamW.
        credit: (run) -> rules of credit assignment, or None where it is off.
        new_parameters: (stage) -> how the names of the parameters begin that the stage before does not have.
        put_in: (model, prepared data) -> what of the data, beside the tokens' counts, the model holds.
        source: (data settings) -> what a card says of the data; None for sources of text.
        with_files: (run) -> the run with what the files say that it names, before data and model are touched.
        start: (model, run) -> what is loaded, frozen or added once the model is built.
        origins: families whose checkpoints a run may start from beside its own, and what is taken from them.
        at_end: (run, prepared data), once the root of the run folder holds the model -> what more its card shows.
        plot_score: (Score JSON, run folder), draws what the card's tables do not show.
    """

    config_class: type[JepaConfig]
    model_class: type["PreTrainedModel"]
    auto_class: Any
    data: "FamilyData"
    score_held_out: Callable[["PreTrainedModel", "Prepared", int], dict[str, Any]]
    make_sample: Callable[["Prepared"], Callable[["PreTrainedModel", "PreTrainedTokenizerBase", str], str]]
    facts: Callable[["Run", Any, "Prepared", int], "RunFacts"]
    data_lines: Callable[["Run", "Prepared"], list[str]]
    passes_line: Callable[["Run", "Prepared", int], str]
    judge: Callable[["Run", "Prepared", int, int], list["Verdict"]]
    card: "CardStyle"
    make_optimizer: Callable[["PreTrainedModel", "Run"], "Optimizer"] | None = None
    credit: Callable[["Run"], "CreditRules | None"] | None = None
    new_parameters: Callable[[int], tuple[str, ...]] | None = None
    put_in: Callable[["PreTrainedModel", "Prepared"], None] | None = None
    source: Callable[[Any], "SourceInfo"] | None = None
    with_files: Callable[["Run"], "Run"] | None = None
    start: Callable[["PreTrainedModel", "Run"], None] | None = None
    origins: Mapping[str, "Origin"] = field(default_factory=dict)
    at_end: Callable[["Run", "Prepared"], dict[str, Any]] | None = None
    plot_score: Callable[[dict[str, Any], Path], None] | None = None


def family_names() -> tuple[str, ...]:
    """All families that can be trained."""
    return tuple(RECIPES)


def recipe_of(family: str) -> FamilyRecipe:
    """Which configuration and settings a recipe of this family has."""
    return RECIPES[family]


def config_class_of(family: str) -> type[JepaConfig]:
    """The configuration class of a family."""
    return RECIPES[family].config_class


def load_family(name: str) -> Family:
    """Everything about a family; imports torch, the models and the scorers."""
    if name == StagedGeneratorConfig.model_type:
        from training.family_generator import STAGED_GENERATOR

        return STAGED_GENERATOR
    if name == DialogueJepaConfig.model_type:
        from training.family_dialogue import DIALOGUE_JEPA

        return DIALOGUE_JEPA
    if name == VideoJepaConfig.model_type:
        from training.family_video import VIDEO_JEPA

        return VIDEO_JEPA
    from training.family_text import TEXT_JEPA

    return TEXT_JEPA
