"""Models of all families. Importing this registers them with the library's Auto classes."""

from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from configuration_jepa import DialogueJepaConfig, StagedGeneratorConfig, TextJepaConfig, VideoJepaConfig
from modeling_jepa.modeling_base import JepaPreTrainedModel, LatentMaskedLMOutput
from modeling_jepa.modeling_dialogue_jepa import (
    DialogueJepaForConditionalGeneration,
    DialogueJepaModel,
    DialogueLatentOutput,
    DialogueOutput,
)
from modeling_jepa.modeling_staged_generator import (
    StagedGeneratorForCausalLM,
    StagedGeneratorModel,
    StagedGeneratorOutput,
)
from modeling_jepa.modeling_text_jepa import TextJepaForMaskedLM, TextJepaModel
from modeling_jepa.modeling_video_jepa import VideoJepaForFramePrediction, VideoOutput

AutoModel.register(DialogueJepaConfig, DialogueJepaModel, exist_ok=True)
AutoModelForSeq2SeqLM.register(DialogueJepaConfig, DialogueJepaForConditionalGeneration, exist_ok=True)
AutoModel.register(StagedGeneratorConfig, StagedGeneratorModel, exist_ok=True)
AutoModelForCausalLM.register(StagedGeneratorConfig, StagedGeneratorForCausalLM, exist_ok=True)
AutoModel.register(TextJepaConfig, TextJepaModel, exist_ok=True)
AutoModelForMaskedLM.register(TextJepaConfig, TextJepaForMaskedLM, exist_ok=True)
AutoModel.register(VideoJepaConfig, VideoJepaForFramePrediction, exist_ok=True)

__all__ = [
    "DialogueJepaForConditionalGeneration",
    "DialogueJepaModel",
    "DialogueLatentOutput",
    "DialogueOutput",
    "JepaPreTrainedModel",
    "LatentMaskedLMOutput",
    "StagedGeneratorForCausalLM",
    "StagedGeneratorModel",
    "StagedGeneratorOutput",
    "TextJepaForMaskedLM",
    "TextJepaModel",
    "VideoJepaForFramePrediction",
    "VideoOutput",
]
