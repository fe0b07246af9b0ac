"""Family -> what its recipes may hold. Light: checking a recipe imports no torch."""

from dataclasses import dataclass
from typing import Any

from configuration_jepa import DialogueJepaConfig, JepaConfig, StagedGeneratorConfig, TextJepaConfig, VideoJepaConfig
from training.data.settings import (
    DataSettings,
    DialogueDataSettings,
    GeneratorDataSettings,
    LabelledDataSettings,
    MaskingSettings,
    NoMaskingSettings,
    VideoDataSettings,
    VideoMaskingSettings,
)
from training.settings.common import EvaluationSettings, TrainingSettings
from training.settings.dialogue_jepa import DialogueEvaluationSettings, DialogueTrainingSettings
from training.settings.staged_generator import GeneratorEvaluationSettings, GeneratorTrainingSettings
from training.settings.text_classifier import ClassifierEvaluationSettings, ClassifierTrainingSettings
from training.settings.video_jepa import VideoEvaluationSettings, VideoTrainingSettings


@dataclass(frozen=True)
class FamilyRecipe:
    """What a recipe of a family may hold: `config_class` has the sections `model` and `loss`."""

    config_class: type[JepaConfig]
    data: type[Any] = DataSettings
    masking: type[Any] = MaskingSettings
    training: type[TrainingSettings] = TrainingSettings
    evaluation: type[EvaluationSettings] = EvaluationSettings

    def settings_of(self, section: str) -> type[Any]:
        """The settings class of one of `SETTINGS_SECTIONS`."""
        return vars(self)[section]


SETTINGS_SECTIONS = ("data", "masking", "training", "evaluation")

RECIPES: dict[str, FamilyRecipe] = {
    "text_jepa": FamilyRecipe(TextJepaConfig),
    "text_classifier": FamilyRecipe(
        TextJepaConfig,
        LabelledDataSettings,
        NoMaskingSettings,
        ClassifierTrainingSettings,
        ClassifierEvaluationSettings,
    ),
    "staged_generator": FamilyRecipe(
        StagedGeneratorConfig,
        GeneratorDataSettings,
        NoMaskingSettings,
        GeneratorTrainingSettings,
        GeneratorEvaluationSettings,
    ),
    "dialogue_jepa": FamilyRecipe(
        DialogueJepaConfig,
        DialogueDataSettings,
        NoMaskingSettings,
        DialogueTrainingSettings,
        DialogueEvaluationSettings,
    ),
    "video_jepa": FamilyRecipe(
        VideoJepaConfig,
        VideoDataSettings,
        VideoMaskingSettings,
        VideoTrainingSettings,
        VideoEvaluationSettings,
    ),
}


DEFAULT_FAMILY = "text_jepa"


def family_names() -> tuple[str, ...]:
    """All families that can be trained."""
    return tuple(RECIPES)


def recipe_of(family: str) -> FamilyRecipe:
    """Which configuration and settings a recipe of this family has."""
    return RECIPES[family]


def config_class_of(family: str) -> type[JepaConfig]:
    """The configuration class of a family."""
    return RECIPES[family].config_class
