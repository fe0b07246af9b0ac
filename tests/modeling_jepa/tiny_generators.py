"""Generators small enough to be looked at from every side, whose routing still has every kind of edge."""

import torch

from configuration_jepa import StagedGeneratorConfig
from modeling_jepa import StagedGeneratorForCausalLM

STAGES = (0, 1, 2, 3)
LENGTH = 48
VOCABULARY = 60
SPECIAL = 5  # the ids below are special tokens


def tiny_config(stage: int, **changes: object) -> StagedGeneratorConfig:
    """The tiny configuration of a stage, with changes."""
    fields = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "embedding_size": 24,
        "num_semantic_blocks": 4,
        "semantic_blocks": "full",
        "max_position_embeddings": 192,
        "routing_edges": ["successors", "places", "pairs", "blocks", "fibonacci"],
        "routing_occurrences": 3,
        "routing_code_bits": 3,
    }
    return StagedGeneratorConfig(**{**fields, "stage": stage, **changes})


def tiny_generator(stage: int, implementation: str = "eager", **changes: object) -> StagedGeneratorForCausalLM:
    """Untrained, in evaluation mode, with nothing at zero, so that every part has a say in the logits."""
    torch.manual_seed(0)
    changes = {"zero_init_residual": False, "initializer_range": 0.3, **changes}
    model = StagedGeneratorForCausalLM(tiny_config(stage, **changes)).eval()
    model.set_attn_implementation(implementation)
    open_gates(model)
    if model.model.block_attention is not None:
        torch.nn.init.normal_(model.model.block_attention.out_proj.weight, std=0.3)
    return model


def open_gates(model: StagedGeneratorForCausalLM) -> None:
    """Give a value to what stages 1 and 3 begin with at zero."""
    for name, parameter in model.named_parameters():
        if name.endswith("forgetting.gate"):
            torch.nn.init.uniform_(parameter, 0.02, 0.2)
        elif name.endswith((".gate", ".null_key", ".taps", "forgetting.proj.weight")):
            torch.nn.init.normal_(parameter, std=0.3)


def trained_generator(
    stage: int, implementation: str = "eager", steps: int = 25, **changes: object
) -> StagedGeneratorForCausalLM:
    """The same after some steps on rows that repeat themselves: what has learned to look back."""
    model = tiny_generator(stage, implementation, **changes).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for step in range(steps):
        half = random_tokens(8, LENGTH // 2, seed=step)
        tokens = torch.cat((half, half), dim=1)
        optimizer.zero_grad()
        model(tokens, labels=tokens).loss.backward()
        optimizer.step()
    return model.eval()


def random_tokens(rows: int, length: int = LENGTH, seed: int = 0, low: int = SPECIAL, high: int = VOCABULARY):
    """`(rows, length)` ids that are no special tokens."""
    return torch.randint(low, high, (rows, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits_of(model: StagedGeneratorForCausalLM, tokens: torch.Tensor, **inputs: object) -> torch.Tensor:
    """Without gradient."""
    return model(tokens, **inputs).logits
