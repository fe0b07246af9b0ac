"""Models of all families. Importing this registers them with the library's Auto classes."""

from transformers import AutoModel, AutoModelForMaskedLM

from configuration_jepa import TextJepaConfig
from modeling_jepa.modeling_base import JepaPreTrainedModel, LatentMaskedLMOutput
from modeling_jepa.modeling_text_jepa import TextJepaForMaskedLM, TextJepaModel

AutoModel.register(TextJepaConfig, TextJepaModel, exist_ok=True)
AutoModelForMaskedLM.register(TextJepaConfig, TextJepaForMaskedLM, exist_ok=True)

__all__ = ["JepaPreTrainedModel", "LatentMaskedLMOutput", "TextJepaForMaskedLM", "TextJepaModel"]
