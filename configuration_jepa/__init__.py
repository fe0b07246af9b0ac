"""Configurations of all families. Importing this registers them with `AutoConfig`."""

from transformers import AutoConfig

from configuration_jepa.configuration_base import JepaConfig
from configuration_jepa.configuration_text_jepa import TextJepaConfig
from configuration_jepa.remote_code import export_remote_code

AutoConfig.register(TextJepaConfig.model_type, TextJepaConfig, exist_ok=True)

__all__ = ["JepaConfig", "TextJepaConfig", "export_remote_code"]
