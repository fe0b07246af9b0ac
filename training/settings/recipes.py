"""Family -> what its recipes may hold. Light: checking a recipe imports no torch."""

from dataclasses import dataclass
from typing import Any

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
from training.settings.common import EvaluationSettings, TrainingSettings
from training.settings.dialogue_jepa import DialogueEvaluationSettings, DialogueTrainingSettings
from training.settings.staged_generator import GeneratorEvaluationSettings, GeneratorTrainingSettings
from training.settings.video_jepa import VideoEvaluationSettings, VideoTrainingSettings


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


def family_names() -> tuple[str, ...]:
    """All families that can be trained."""
    return tuple(RECIPES)


def recipe_of(family: str) -> FamilyRecipe:
    """Which configuration and settings a recipe of this family has."""
    return RECIPES[family]


def config_class_of(family: str) -> type[JepaConfig]:
    """The configuration class of a family."""
    return RECIPES[family].config_class
