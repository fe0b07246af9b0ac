"""Family name -> everything about it. A family is imported when it is asked for, as that imports torch."""

from configuration_jepa import DialogueJepaConfig, StagedGeneratorConfig, VideoJepaConfig
from training.family import Family


def load_family(name: str) -> Family:
    """Everything about a family; imports torch, the models and the scorers."""
    if name == StagedGeneratorConfig.model_type:
        from training.families.staged_generator import STAGED_GENERATOR

        return STAGED_GENERATOR
    if name == DialogueJepaConfig.model_type:
        from training.families.dialogue_jepa import DIALOGUE_JEPA

        return DIALOGUE_JEPA
    if name == VideoJepaConfig.model_type:
        from training.families.video_jepa import VIDEO_JEPA

        return VIDEO_JEPA
    from training.families.text_jepa import TEXT_JEPA

    return TEXT_JEPA
