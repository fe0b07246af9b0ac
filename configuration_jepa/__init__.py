"""Configurations of all families. Importing this registers them with `AutoConfig`."""

from transformers import AutoConfig

from configuration_jepa.configuration_base import JepaConfig
from configuration_jepa.configuration_dialogue_jepa import DialogueJepaConfig
from configuration_jepa.configuration_staged_generator import StagedGeneratorConfig
from configuration_jepa.configuration_text_jepa import TextJepaConfig
from configuration_jepa.configuration_video_jepa import VideoJepaConfig
from configuration_jepa.remote_code import export_remote_code

for _config in (DialogueJepaConfig, StagedGeneratorConfig, TextJepaConfig, VideoJepaConfig):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)

__all__ = [
    "DialogueJepaConfig",
    "JepaConfig",
    "StagedGeneratorConfig",
    "TextJepaConfig",
    "VideoJepaConfig",
    "export_remote_code",
]
