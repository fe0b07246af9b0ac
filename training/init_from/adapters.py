"""LoRA in training, on a checkpoint or on a part of a model: what is saved is a plain model, what is resumed exact.

A checkpoint's weights have the adapters merged in, so that whoever opens it needs nothing more. Beside them lie the
adapters and the matrices as they were without them, which merged weights cannot give back to the bit. Where nothing
but the adapters learnt, `adapter/` holds them as `peft` reads them:

    PeftModel.from_pretrained(AutoModelForMaskedLM.from_pretrained(BASE), "outputs/adapted/adapter")
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from training.common.layout import ADAPTER_FOLDER, CARD_FILE, LORA_FILE

_ADAPTER = "default"
_BASE, _LORA = ".base_layer.", ".lora_"
_SCALE = 2  # alpha / rank, as is usual
# The target network follows no gradient, and tables are read row by row beside the layers that hold them.
NEVER_ADAPTED = r"(.*\.)?(teacher\..*|head\.decoder|lm_head)"
# Auto classes whose models `peft` wraps in a class of its own; others are found through `auto_mapping`.
_TASKS = {"AutoModelForCausalLM": "CAUSAL_LM", "AutoModelForSeq2SeqLM": "SEQ_2_SEQ_LM"}
_CARD = """\
---
{base}library_name: peft
tags: [lora, jepa-lm]
---

# LoRA adapter of rank {rank}

For the model `{name}`, and for no other: only what these matrices add to its weights is here.

```python
from peft import PeftModel
from transformers import {auto_class}

model = {auto_class}.from_pretrained("{name}", trust_remote_code=True)
model = PeftModel.from_pretrained(model, "PATH_OR_REPOSITORY")  # this adapter
```

`model.merge_and_unload()` gives a plain model. What was measured of it, and on what it
learnt, stands in the card of the run that made it.
"""


def lora_config(rank: int, base: "AdaptedFrom | None" = None) -> LoraConfig:
    """LoRA (Hu et al., 2021, arXiv:2106.09685) on every linear layer but tables and the target network.

    `base`: what the adapters will be loaded upon, which is written into their configuration.
    """
    known = {} if base is None else {"base_model_name_or_path": base.name, "task_type": _TASKS.get(base.auto_class)}
    return LoraConfig(
        r=rank, lora_alpha=_SCALE * rank, target_modules="all-linear", exclude_modules=NEVER_ADAPTED, **known
    )


def add_lora(model: PreTrainedModel, rank: int) -> None:
    """Put LoRA into a model; all else is frozen."""
    inject_adapter_in_model(lora_config(rank), model, _ADAPTER)


@dataclass(frozen=True)
class AdaptedFrom:
    """The checkpoint that adapters are for: its folder or repository, and the Auto class that opens it."""

    name: str
    auto_class: str


@dataclass(frozen=True)
class Adapters:
    """How a model with LoRA is written and read; `base` where nothing but the adapters learns."""

    base: AdaptedFrom | None = None
    file = LORA_FILE

    @staticmethod
    @torch.no_grad()
    def merged_state(model: nn.Module) -> dict[str, Tensor]:
        """The weights of the model without adapters that says the same: W + B A alpha / rank."""
        state = {name.replace(_BASE, "."): value for name, value in model.state_dict().items() if _LORA not in name}
        for name, layer in _adapted(model):
            state[f"{name}.weight"] = layer.get_base_layer().weight + layer.get_delta_weight(_ADAPTER)
        return state

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write what a resume needs beside the merged weights, and what `peft` reads."""
        own = {name: value for name, value in model.state_dict().items() if _LORA in name}
        own |= {f"{name}{_BASE}weight": layer.get_base_layer().weight.detach() for name, layer in _adapted(model)}
        save_file({name: value.contiguous() for name, value in own.items()}, folder / LORA_FILE)
        if self.base is not None:
            _save_for_peft(model, folder / ADAPTER_FOLDER, self.base)

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


def _save_for_peft(model: nn.Module, folder: Path, base: AdaptedFrom) -> None:
    """Matrices, configuration and card, as `PeftModel.save_pretrained` names them."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        f"base_model.model.{name.replace(f'.{_ADAPTER}.', '.')}": value.contiguous()
        for name, value in model.state_dict().items()
        if _LORA in name
    }
    save_file(state, folder / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
    layers = _adapted(model)
    rank = layers[0][1].r[_ADAPTER]
    config = lora_config(rank, base).to_dict() | {
        "target_modules": [name for name, _ in layers],
        "inference_mode": True,
    }
    if config["task_type"] is None:
        config["auto_mapping"] = {"base_model_class": base.auto_class, "parent_library": "transformers"}
    text = json.dumps(config, indent=2, sort_keys=True, default=_plain)
    (folder / CONFIG_NAME).write_text(f"{text}\n", encoding="utf-8")
    (folder / CARD_FILE).write_text(adapter_card(base, rank), encoding="utf-8")


def adapter_card(base: AdaptedFrom, rank: int) -> str:
    """A folder's path tells where a model was made, and is no name of the Hub's."""
    on_hub = not Path(base.name).exists()
    return _CARD.format(
        base=f"base_model: {base.name}\n" if on_hub else "",
        name=base.name if on_hub else "PATH_OR_REPOSITORY_OF_THE_BASE",
        rank=rank,
        auto_class=base.auto_class,
    )


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else str(value)


def _adapted(model: nn.Module) -> list[tuple[str, LoraLayer]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)]


def _weights(folder: Path) -> dict[str, Tensor]:
    """Of one file, or of as many as the index names."""
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    if not index.is_file():
        return load_file(folder / SAFE_WEIGHTS_NAME)
    names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    return {key: tensor for name in names for key, tensor in load_file(folder / name).items()}
