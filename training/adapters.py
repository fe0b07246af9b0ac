"""LoRA on a part of a model, in training: what is saved is a plain model, and what is resumed is exact.

A checkpoint's weights have the adapters merged in, so that whoever opens it needs nothing more. Beside them lie the
adapters and the matrices as they were without them, which merged weights cannot give back to the bit.
"""

import json
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from training.layout import LORA_FILE

_ADAPTER = "default"
_BASE, _LORA = ".base_layer.", ".lora_"
_SCALE = 2  # alpha / rank, as is usual


def add_lora(model: PreTrainedModel, rank: int) -> None:
    """LoRA (Hu et al., 2021, arXiv:2106.09685) on every linear layer but the output table; all else is frozen."""
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=_SCALE * rank, target_modules="all-linear"), model, _ADAPTER)


class Adapters:
    """How a model with LoRA is written and read."""

    file = LORA_FILE

    @staticmethod
    @torch.no_grad()
    def merged_state(model: nn.Module) -> dict[str, Tensor]:
        """The weights of the model without adapters that says the same: W + B A alpha / rank."""
        state = {name.replace(_BASE, "."): value for name, value in model.state_dict().items() if _LORA not in name}
        for name, layer in _adapted(model):
            state[f"{name}.weight"] = layer.get_base_layer().weight + layer.get_delta_weight(_ADAPTER)
        return state

    @staticmethod
    def save(model: nn.Module, folder: Path) -> None:
        """Write what a resume needs beside the merged weights."""
        own = {name: value for name, value in model.state_dict().items() if _LORA in name}
        own |= {f"{name}{_BASE}weight": layer.get_base_layer().weight.detach() for name, layer in _adapted(model)}
        save_file({name: value.contiguous() for name, value in own.items()}, folder / LORA_FILE)

    @staticmethod
    def load(model: PreTrainedModel, folder: Path) -> None:
        """Undo both, to the bit. Raises `RuntimeError` for tensors that are missing or have no place."""
        state = _weights(folder)
        for name, layer in _adapted(model):
            for parameter, _ in layer.get_base_layer().named_parameters():
                state[f"{name}{_BASE}{parameter}"] = state.pop(f"{name}.{parameter}")
        missing, unexpected = model.load_state_dict(state | load_file(folder / LORA_FILE), strict=False)
        wrong = sorted(set(missing) - set(model.all_tied_weights_keys)) + unexpected
        if wrong:
            raise RuntimeError(f"tensors that are missing or have no place: {', '.join(wrong[:5])}")


def _adapted(model: nn.Module) -> list[tuple[str, LoraLayer]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)]


def _weights(folder: Path) -> dict[str, Tensor]:
    """Of one file, or of as many as the index names."""
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    if not index.is_file():
        return load_file(folder / SAFE_WEIGHTS_NAME)
    names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    return {key: tensor for name in names for key, tensor in load_file(folder / name).items()}
