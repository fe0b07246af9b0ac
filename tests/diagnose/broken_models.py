"""What users do to their models: each function changes one in place and returns it.

A change of `forward` is a class of its own, as in a user's file; a changed part of the network is a class of its own
that takes the part's place. Both stay with a copy of the model, and with its training.
"""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import ModelOutput

from modeling_jepa.graph_routing import ListedEdges

IGNORED = -100

# Where the parts of an architecture stand, by the prefix of its trunk.
_TRUNKS = {
    "gpt2": "transformer",
    "llama": "model",
    "gpt_neox": "gpt_neox",
    "bloom": "transformer",
    "opt": "model.decoder",
    "mamba": "backbone",
    "bert": "bert.encoder",
    "roberta": "roberta.encoder",
    "modernbert": "model",
    "t5": "decoder",
    "bart": "model.decoder",
    "text_jepa": "model",
    "staged_generator": "model",
}
_LAYERS = ("h", "layers", "layer", "block")
_NORMS = ("ln_f", "norm", "final_layer_norm", "norm_f", "final_norm")
_BRANCHES = ("mlp", "intermediate", "fc2", "attn", "mixer")


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    """The layers, of seq2seq those of the decoder."""
    parts = dict(_trunk(model).named_children())
    return next(parts[name] for name in _LAYERS if name in parts)


def replace_forward(model: PreTrainedModel, around: Callable[..., ModelOutput]) -> PreTrainedModel:
    """Give the model a class whose forward is `around(the right forward, model, **its arguments)`."""
    base = type(model)

    @functools.wraps(base.forward)
    def forward(self: PreTrainedModel, input_ids: Tensor | None = None, **given: Any) -> ModelOutput:
        def right(**arguments: Any) -> ModelOutput:
            return base.forward(self, **arguments)

        return around(right, self, input_ids=input_ids, **given)

    model.__class__ = type(f"Own{base.__name__}", (base,), {"forward": forward, "__module__": __name__})
    return model


def replace_part(part: nn.Module, around: Callable[..., Any]) -> None:
    """Give a part of the network a class whose forward is `around(the right forward, *its inputs)`."""
    base = type(part)

    def forward(self: nn.Module, *inputs: Any, **named: Any) -> Any:
        return around(functools.partial(base.forward, self), *inputs, **named)

    part.__class__ = type(f"Own{base.__name__}", (base,), {"forward": forward, "__module__": __name__})


# ---- who sees whom ----


def sees_everything(model: PreTrainedModel) -> PreTrainedModel:
    """No causal mask."""
    return masked_by(model, lambda query, key: torch.ones_like(query + key, dtype=torch.bool))


def sees_next(model: PreTrainedModel) -> PreTrainedModel:
    """The mask's diagonal is off by one."""
    return masked_by(model, lambda query, key: key <= query + 1)


def sees_everything_in_a_chunk(model: PreTrainedModel) -> PreTrainedModel:
    """The mask is made only where nothing is cached yet: later chunks see all of themselves."""
    return masked_by(model, lambda query, key: torch.ones_like(query + key, dtype=torch.bool), only_cached=True)


def routes_to(model: PreTrainedModel, target: Callable[[Tensor, int], Tensor]) -> PreTrainedModel:
    """Of our graph routing: far edges from places (1, T) to `target(places, the last one)`, through open gates."""
    base = type(model.model)

    def plan(self: nn.Module, *given: Any) -> Any:
        found = base._plan(self, *given)
        rows, length = given[1].shape[:2]
        last = found.first + length - 1
        to = target(torch.arange(found.first, last + 1).expand(rows, -1), last)[..., None]
        edges = ListedEdges(to.clamp(0, last), (to >= 0) & (to <= last))
        return replace(found, far=dict.fromkeys(found.far, edges))

    for name, parameter in model.named_parameters():
        if ".far." in name and name.endswith("gate"):
            nn.init.ones_(parameter)
    model.model.__class__ = type(f"Own{base.__name__}", (base,), {"_plan": plan, "__module__": __name__})
    return model


def routes_to_the_next(model: PreTrainedModel) -> PreTrainedModel:
    """Far edges that all lead to the token after."""
    return routes_to(model, lambda places, last: places + 1)


def routes_beyond_the_query(model: PreTrainedModel) -> PreTrainedModel:
    """Far edges of every third token lead to a successor that stands after it."""
    return routes_to(model, lambda places, last: torch.where(places % 3 == 0, places + 4, -1))


def routes_to_the_first(model: PreTrainedModel) -> PreTrainedModel:
    """Far edges that lead to the first place, whether it is of another document or padding."""
    return routes_to(model, lambda places, last: torch.where(places > 0, 0 * places, -1))


def mixes_rows(model: PreTrainedModel) -> PreTrainedModel:
    """The last norm centres over the rows of the batch as well."""

    def centred(right: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
        found = right(hidden)
        return found - 0.5 * found.mean(0, keepdim=True)

    replace_part(_last_norm(model), centred)
    return model


def hears_the_row_before(model: PreTrainedModel) -> PreTrainedModel:
    """A state is carried from one row of the batch to the next; the first row is right."""

    def carried(right: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
        found = right(hidden)
        return found + 0.5 * torch.cat([torch.zeros_like(found[:1]), found[:-1]])

    replace_part(_last_norm(model), carried)
    return model


def sees_the_last_token(model: PreTrainedModel) -> PreTrainedModel:
    """Every position also sees the end of the row."""
    return masked_by(model, lambda query, key: (key <= query) | (key == key.shape[-1] - 1))


def sees_three_ahead(model: PreTrainedModel) -> PreTrainedModel:
    """Every position also sees one place further on."""
    return masked_by(model, lambda query, key: (key <= query) | (key == query + 3))


def wraps_around(model: PreTrainedModel) -> PreTrainedModel:
    """The first position sees the one before it: the last one, by a negative index."""
    return masked_by(model, lambda query, key: (key <= query) | ((query == 0) & (key == key.shape[-1] - 1)))


# ---- positions, randomness ----


def forgets_positions(model: PreTrainedModel) -> PreTrainedModel:
    """The table of positions stays at zero; or rotary positions are all 0."""
    tables = [part for name, part in model.named_modules() if name.endswith(("wpe", "position_embeddings"))]
    for table in tables:
        nn.init.zeros_(table.weight)
        table.weight.requires_grad_(False)
    if tables:
        return model

    def everywhere_first(right: Callable[..., ModelOutput], own: PreTrainedModel, **given: Any) -> ModelOutput:
        return right(**{**given, "position_ids": torch.zeros_like(given["input_ids"])})

    return replace_forward(model, everywhere_first)


def drops_always(model: PreTrainedModel) -> PreTrainedModel:
    """Dropout by the function, without `training=self.training`."""

    def dropped(right: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
        return nn.functional.dropout(right(*inputs, **named), 0.1)

    replace_part(_branch(model, -1), dropped)
    return model


# ---- losses ----


def does_not_shift(model: PreTrainedModel) -> PreTrainedModel:
    """The model's own loss compares the logits with the labels at the same place."""

    def unshifted(
        right: Callable[..., ModelOutput], own: PreTrainedModel, labels: Tensor | None = None, **given: Any
    ) -> ModelOutput:
        given.pop("num_items_in_batch", None)
        output = right(**given)
        if labels is not None:
            output.loss = nn.functional.cross_entropy(output.logits.flatten(0, 1), labels.flatten())
        return output

    return replace_forward(model, unshifted)


# ---- gradients and weights ----


def detaches_a_branch(model: PreTrainedModel) -> PreTrainedModel:
    """One layer's branch gives its result without its history."""
    replace_part(_branch(model, 0), lambda right, *inputs, **named: right(*inputs, **named).detach())
    return model


@torch.no_grad()
def zeroes_a_layer(model: PreTrainedModel) -> PreTrainedModel:
    """Every weight of the second layer is zero."""
    for parameter in layers_of(model)[1].parameters():
        parameter.zero_()
    return model


@torch.no_grad()
def kills_units(model: PreTrainedModel) -> PreTrainedModel:
    """A step that was too large threw the biases of a ReLU layer far below zero."""
    bias = next(p for name, p in layers_of(model)[0].named_parameters() if name.endswith(_INNER_BIASES))
    bias[: bias.numel() * 4 // 5] -= 50.0
    return model


@torch.no_grad()
def explodes(model: PreTrainedModel) -> PreTrainedModel:
    """The output table has grown a thousandfold along what all its rows have in common: nothing else is left of it."""
    table = _own_output_table(model)
    drift = torch.randn(table.shape[1], generator=torch.Generator().manual_seed(1))
    table += 1e8 * drift / drift.norm()
    return model


@torch.no_grad()
def explodes_at_random(model: PreTrainedModel) -> PreTrainedModel:
    """The output table has grown in every direction."""
    table = _own_output_table(model)
    table += 10 * torch.randn(table.shape, generator=torch.Generator().manual_seed(1))
    return model


@torch.no_grad()
def shouts_one_token(model: PreTrainedModel) -> PreTrainedModel:
    """The bias of one token is beyond all others."""
    model.get_output_embeddings().bias[17] = 60.0
    return model


@torch.no_grad()
def unties(model: PreTrainedModel) -> PreTrainedModel:
    """The output table went its own way, and the configuration says that it is the input table."""
    model.config.tie_word_embeddings = True
    table = _own_output_table(model)
    table *= 1 + 0.5 * torch.randn(table.shape, generator=torch.Generator().manual_seed(1))
    return model


@torch.no_grad()
def holds_a_nan(model: PreTrainedModel) -> PreTrainedModel:
    """One number of one matrix."""
    matrix = [p for p in layers_of(model)[1].parameters() if p.ndim == 2][-1]
    matrix[3, 5] = torch.nan
    return model


@torch.no_grad()
def says_the_same_everywhere(model: PreTrainedModel) -> PreTrainedModel:
    """The encoder has collapsed: its last norm lets a thousandth of its vectors through, and adds the same to all."""
    norm = _last_norm(model)
    norm.weight *= 1e-3
    norm.bias += torch.randn(norm.bias.shape, generator=torch.Generator().manual_seed(1))
    return model


def predicts_nothing(model: PreTrainedModel) -> PreTrainedModel:
    """The predictor of a latent model hands its input on."""
    replace_part(model.head.predictor, lambda right, hidden: hidden)
    return model


_INNER_BIASES = ("fc1.bias", "c_fc.bias", "intermediate.dense.bias", "dense_h_to_4h.bias")


def _trunk(model: PreTrainedModel) -> nn.Module:
    return model.get_submodule(_TRUNKS[model.config.model_type])


def _last_norm(model: PreTrainedModel) -> nn.Module:
    """The norm after the last layer; where there is none, that of the last layer itself."""
    parts = dict(_trunk(model).named_children())
    own = [parts[name] for name in _NORMS if name in parts and parts[name] is not None]
    return (
        own[0] if own else [part for name, part in layers_of(model)[-1].named_modules() if "norm" in name.lower()][-1]
    )


def _branch(model: PreTrainedModel, layer: int) -> nn.Module:
    """The feed-forward branch of a layer, or what it has instead."""
    found = dict(layers_of(model)[layer].named_modules())
    names = [*_BRANCHES, "layer.2.DenseReluDense"]
    return next(found[name] for name in names if name in found)


@torch.no_grad()
def _own_output_table(model: PreTrainedModel) -> Tensor:
    """The output table, no longer that of the input."""
    head = model.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.detach().clone())
    return head.weight


def masked_by(
    model: PreTrainedModel, allowed: Callable[[Tensor, Tensor], Tensor], only_cached: bool = False
) -> PreTrainedModel:
    """The model with a mask of the user's own: `allowed(places of queries (T, 1), of keys (1, S))`."""

    def masked(right: Callable[..., ModelOutput], own: PreTrainedModel, **given: Any) -> ModelOutput:
        ids, cache, present = given["input_ids"], given.get("past_key_values"), given.get("attention_mask")
        past = 0 if cache is None else cache.get_seq_length()
        if only_cached and not past:
            return right(**given)
        keys = past + ids.shape[1]
        seen = allowed(torch.arange(past, keys)[:, None], torch.arange(keys)[None])
        real = torch.ones(len(ids), keys) if present is None else present
        seen = seen[None, None] & real[:, None, None, :keys].bool()
        given["attention_mask"] = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
        return right(**given)

    return replace_forward(model, masked)
