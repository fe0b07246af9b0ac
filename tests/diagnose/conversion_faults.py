"""Models that were right until they were converted, merged or configured wrongly: each function harms one in place."""

import math
from collections.abc import Callable

import torch
from torch import nn
from transformers import PreTrainedModel

from eval.diagnose.probes.anatomy import blocks, matrix_layers
from tests.diagnose.broken_models import layers_of
from tests.diagnose.cases import Case, Change, damaged
from tests.diagnose.faults import Fault


def named(model: PreTrainedModel, *ends: str) -> list[nn.Module]:
    """Matrix layers by the last part of their name."""
    return [part for name, part in matrix_layers(model).items() if name.endswith(ends)]


def pairs_for_halves(model: PreTrainedModel) -> PreTrainedModel:
    """Queries and keys in interleaved order, for a model that rotates halves."""
    width = getattr(model.config, "head_dim", None) or model.config.hidden_size // model.config.num_attention_heads
    order = torch.arange(width).view(2, -1).T.flatten()
    for part in named(model, "q_proj", "k_proj"):
        heads = part.weight.data.view(-1, width, part.weight.shape[1])
        part.weight.data = heads[:, order].reshape(part.weight.shape)
    return model


def scores_not_divided(model: PreTrainedModel) -> PreTrainedModel:
    """Attention without the square root of a head's width."""
    for part in model.modules():
        if isinstance(vars(part).get("scaling"), float):
            part.scaling = 1.0
    return model


def norms_less_one(model: PreTrainedModel) -> PreTrainedModel:
    """Weights of norms as a model has them that multiplies by 1 + weight."""
    for name, part in model.named_modules():
        if "norm" in name.rpartition(".")[2] and isinstance(getattr(part, "weight", None), nn.Parameter):
            part.weight.data -= 1
    return model


def first_two_exchanged(model: PreTrainedModel) -> PreTrainedModel:
    """Layers in another order."""
    stack = layers_of(model)
    stack[0], stack[1] = stack[1], stack[0]
    return model


def last_layer_of_another(model: PreTrainedModel) -> PreTrainedModel:
    """A layer that was not in the file: fresh weights, of the size of trained ones."""
    generator = torch.Generator().manual_seed(1)
    for parameter in list(blocks(model).values())[-1].parameters():
        if parameter.ndim > 1:
            parameter.data = parameter.data.std() * torch.randn(parameter.shape, generator=generator)
    return model


def outputs_transposed(model: PreTrainedModel) -> PreTrainedModel:
    """Square matrices the wrong way round."""
    for part in named(model, "o_proj", "out_proj"):
        part.weight.data = part.weight.data.T.clone()
    return model


def embeddings_shrunk(model: PreTrainedModel) -> PreTrainedModel:
    """Embeddings without the factor that the model multiplied them by; the output table stays."""
    table, output = model.get_input_embeddings(), model.get_output_embeddings()
    if output.weight is table.weight:
        output.weight = nn.Parameter(table.weight.detach().clone())
    table.weight.data = table.weight.data / math.sqrt(table.weight.shape[1])
    return model


def output_table_lost(model: PreTrainedModel) -> PreTrainedModel:
    """A tied model whose output table came back random."""
    table = model.get_input_embeddings().weight
    lost = table.std() * torch.randn(table.shape, generator=torch.Generator().manual_seed(1))
    model.get_output_embeddings().weight = nn.Parameter(lost)
    return model


def harmed(change: Change, **lesson: object) -> Callable[[str, int], Case]:
    """A healthy model to which it happened."""
    return lambda architecture, seed: damaged(change, architecture, **lesson)


CONVERSION = (
    Fault("rotary halves for pairs", ("repair.rotary_layout",), ("llama", "qwen3"), harmed(pairs_for_halves), 51),
    Fault(
        "attention not divided",
        ("repair.attention_scale", "parity.reload"),
        ("llama", "gemma2"),
        harmed(scores_not_divided),
        52,
    ),
    Fault("norms for 1 + weight", ("repair.norm_offset",), ("llama", "qwen3"), harmed(norms_less_one), 53),
    Fault(
        "two layers exchanged",
        ("repair.layer_order",),
        ("gpt2", "llama", "neox", "bloom", "roberta"),
        harmed(first_two_exchanged),
        54,
    ),
    Fault(
        "a layer that was not in the file",
        ("size.fresh_layer", "repair.broken_layer"),
        ("llama", "gpt2", "opt", "bert"),
        harmed(last_layer_of_another),
        55,
    ),
    Fault("output projections transposed", ("repair.transposed",), ("llama", "opt"), harmed(outputs_transposed), 56),
    Fault("embeddings not multiplied", ("repair.embedding_scale",), ("llama", "gpt2"), harmed(embeddings_shrunk), 57),
    Fault("output table lost", ("repair.tied_tables",), ("gpt2", "bloom"), harmed(output_table_lost), 58),
)
