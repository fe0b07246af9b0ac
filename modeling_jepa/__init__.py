"""Models of all families, and pipelines. Importing this registers them with the library."""

from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)
from transformers.pipelines import PIPELINE_REGISTRY

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
    StagedGeneratorForSequenceClassification,
    StagedGeneratorModel,
    StagedGeneratorOutput,
)
from modeling_jepa.modeling_text_jepa import (
    TextJepaForMaskedLM,
    TextJepaForSequenceClassification,
    TextJepaForTokenClassification,
    TextJepaModel,
)
from modeling_jepa.modeling_video_jepa import VideoJepaForFramePrediction, VideoOutput
from modeling_jepa.pipeline_frame_prediction import FramePredictionPipeline
from modeling_jepa.pipeline_reply import ReplyPipeline
from modeling_jepa.teacher import TeacherCallback

AutoModel.register(DialogueJepaConfig, DialogueJepaModel, exist_ok=True)
AutoModelForSeq2SeqLM.register(DialogueJepaConfig, DialogueJepaForConditionalGeneration, exist_ok=True)
AutoModel.register(StagedGeneratorConfig, StagedGeneratorModel, exist_ok=True)
AutoModelForCausalLM.register(StagedGeneratorConfig, StagedGeneratorForCausalLM, exist_ok=True)
AutoModelForSequenceClassification.register(
    StagedGeneratorConfig, StagedGeneratorForSequenceClassification, exist_ok=True
)
AutoModel.register(TextJepaConfig, TextJepaModel, exist_ok=True)
AutoModelForMaskedLM.register(TextJepaConfig, TextJepaForMaskedLM, exist_ok=True)
AutoModelForSequenceClassification.register(TextJepaConfig, TextJepaForSequenceClassification, exist_ok=True)
AutoModelForTokenClassification.register(TextJepaConfig, TextJepaForTokenClassification, exist_ok=True)
AutoModel.register(VideoJepaConfig, VideoJepaForFramePrediction, exist_ok=True)

PIPELINE_REGISTRY.register_pipeline("reply", ReplyPipeline, pt_model=AutoModelForSeq2SeqLM, type="text")
PIPELINE_REGISTRY.register_pipeline("frame-prediction", FramePredictionPipeline, pt_model=AutoModel, type="video")

__all__ = [
    "DialogueJepaForConditionalGeneration",
    "DialogueJepaModel",
    "DialogueLatentOutput",
    "DialogueOutput",
    "FramePredictionPipeline",
    "JepaPreTrainedModel",
    "LatentMaskedLMOutput",
    "ReplyPipeline",
    "StagedGeneratorForCausalLM",
    "StagedGeneratorForSequenceClassification",
    "StagedGeneratorModel",
    "StagedGeneratorOutput",
    "TeacherCallback",
    "TextJepaForMaskedLM",
    "TextJepaForSequenceClassification",
    "TextJepaForTokenClassification",
    "TextJepaModel",
    "VideoJepaForFramePrediction",
    "VideoOutput",
]
