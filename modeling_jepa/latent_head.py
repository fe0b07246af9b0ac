"""From an encoder's vector to scores over a table: predictor, cosine and softmax head. Shared by the latent families.

Shapes: H width, V rows of the table.
"""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from transformers.activations import ACT2FN

from configuration_jepa.configuration_base import JepaConfig
from modeling_jepa.layers import RMSNorm
from modeling_jepa.losses import unit

try:  # comes with whatever offloads weights
    from accelerate.utils import align_module_device  # type: ignore[import-untyped]
except ImportError:
    align_module_device = None


@contextmanager
def weights_at_hand(*modules: nn.Module, tied_to: nn.Module | None = None) -> Iterator[None]:
    """Inside, weights that `device_map` keeps elsewhere are there, for modules that are read and not called.

    Args:
        tied_to: the layer whose `weight` is that of a module with a tied table. The file has such a table once, so the
            module cannot find it where `device_map` keeps the two in different places.
    """
    if align_module_device is None or not any(hasattr(module, "_hf_hook") for module in modules):
        yield
        return
    with ExitStack() as stack:
        for module in modules:
            try:
                stack.enter_context(align_module_device(module))
            except KeyError:
                if tied_to is None:
                    raise
                stack.enter_context(_tied_at_hand(module, tied_to))
        yield


@contextmanager
def _tied_at_hand(module: Any, tied_to: nn.Module) -> Iterator[None]:
    """Inside, the module has the weight of another, and its own bias."""
    kept = dict(module._parameters)
    with align_module_device(tied_to):
        weight: Any = tied_to.weight
        try:
            module._parameters["weight"] = weight
            if kept.get("bias") is not None:
                bias = module._hf_hook.weights_map["bias"].to(weight.device)
                module._parameters["bias"] = nn.Parameter(bias, requires_grad=False)
            yield
        finally:
            module._parameters.update(kept)


class Predictor(nn.Module):
    """From the encoder's space to the target's, same width.

    Hidden layers with norm, then a plain linear layer, whose free length can say how certain the prediction is.
    Without hidden layers it is the identity. `width`: H, by default the trunk's.
    """

    def __init__(self, config: JepaConfig, num_layers: int, width: int | None = None) -> None:
        super().__init__()
        width = width or config.hidden_size
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(num_layers))
        self.norms = nn.ModuleList(RMSNorm(width, config.norm_eps) for _ in range(num_layers))
        self.activation = ACT2FN[config.hidden_act]
        self.output = nn.Linear(width, width) if num_layers else nn.Identity()

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(..., H) -> (..., H)`."""
        for layer, norm in zip(self.hidden, self.norms, strict=True):
            hidden_states = norm(self.activation(layer(hidden_states)))
        return self.output(hidden_states)


class LatentHead(nn.Module):
    """Predictor and scores against a table.

    `config` gives `head`, `logit_scale`, `temperature`, `frequency_bias` and `predictor_layers`:

    - `cosine`, scale `fixed`: cos / temperature; `learned`: s cos, s starting at 1 / temperature; `length`: s |p| cos,
      the logarithm of a von Mises-Fisher density up to its norm (Davidson et al., 2018, arXiv:1804.00891, eq. 1).
    - `softmax`: the dot product p . w.

    Each with a bias per token where `frequency_bias` is set. The table is given with each call: the head's own
    `decoder.weight`, or a teacher's. `width`: H, by default the trunk's.
    """

    def __init__(self, config: JepaConfig, width: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.width = width or config.hidden_size
        self.predictor = Predictor(config, config.predictor_layers, self.width)
        self.decoder = nn.Linear(self.width, config.vocab_size, bias=config.frequency_bias)
        self.log_scale = None
        if config.head == "cosine" and config.logit_scale != "fixed":
            self.log_scale = nn.Parameter(torch.tensor(self.initial_log_scale()))

    def __setattr__(self, name: str, value: Any) -> None:
        """A table that takes another's place keeps the bias: `peft` merges tied tables to a layer without one."""
        if name == "decoder" and isinstance(value, nn.Linear) and name in self._modules:
            layer: Any = value
            layer.bias = self.bias if layer.bias is None else layer.bias
        super().__setattr__(name, value)

    @property
    def table(self) -> torch.Tensor:
        """The head's own table `(V, H)`, read and not called; also where `peft` or a quantiser replaced the layer."""
        weight: Any = self.decoder.weight
        return weight().dequantize() if callable(weight) else weight

    @property
    def bias(self) -> torch.Tensor | None:
        """The bias per token `(V,)`; wrappers of `peft` know only the weight."""
        layer: Any = self.decoder.original_module if hasattr(self.decoder, "original_module") else self.decoder
        return layer.bias() if callable(layer.bias) else layer.bias

    def at_hand(self, *others: nn.Module, tied_to: nn.Module | None = None) -> AbstractContextManager:
        """Inside, the weights of the head and of others are there even where `device_map` offloads them."""
        return weights_at_hand(self, self.decoder, *others, tied_to=tied_to)

    def initial_log_scale(self) -> float:
        """Start of the learned scale: 1 / temperature, for `length` shared out over the expected length sqrt(H)."""
        length = math.sqrt(self.width) if self.config.logit_scale == "length" else 1.0
        return -math.log(self.config.temperature * length)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Predictions: `(..., H) -> (..., H)`, of any length."""
        return self.predictor(hidden_states)

    def logits(
        self, predictions: torch.Tensor, table: torch.Tensor, token_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Scores over the whole `table` `(V, H)`: `(..., H) -> (..., V)`; or over these tokens `(C,)` of it."""
        bias = self.bias
        if token_ids is not None:
            table, bias = table[token_ids], None if bias is None else bias[token_ids]
        if self.config.head == "softmax":
            return nn.functional.linear(predictions, table, bias)
        return nn.functional.linear(self._query(predictions), unit(table), None if bias is None else bias.float())

    def logits_of(
        self, predictions: torch.Tensor, token_ids: torch.Tensor, table: torch.Tensor, negatives_learn: bool = True
    ) -> torch.Tensor:
        """Scores of some tokens only: predictions `(K, H)`, ids `(K, M)`, the true ones first -> `(K, M)`.

        Without `negatives_learn` the other tokens' rows get no gradient.
        """
        rows = table[token_ids]
        if not negatives_learn:
            rows = torch.cat((rows[:, :1], rows[:, 1:].detach()), dim=1)
        if self.config.head == "softmax":
            query = predictions
        else:
            query, rows = self._query(predictions), unit(rows)
        scores = torch.einsum("kh,kmh->km", query, rows.to(query.dtype))
        bias = self.bias
        return scores if bias is None else scores + bias[token_ids]

    def _query(self, predictions: torch.Tensor) -> torch.Tensor:
        """The prediction's direction (or, for `length`, the prediction itself) times the scale, float32."""
        query = predictions.float() if self.config.logit_scale == "length" else unit(predictions)
        return query / self.config.temperature if self.log_scale is None else query * self.log_scale.float().exp()
