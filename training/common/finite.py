"""Where a number that is not finite came from: inputs, weights, loss, its parts or gradients, named in words."""

from collections.abc import Iterable, Mapping

from torch import Tensor
from torch.optim import Optimizer
from transformers import PreTrainedModel


def what_is_broken(
    model: PreTrainedModel, batches: list[dict[str, Tensor]], loss: Tensor, parts: Mapping[str, Tensor]
) -> list[str]:
    """What is not finite in one step, in the order in which it spreads; each entry names a tensor.

    Args:
        batches: the step's inputs.
        loss: 0-d, the step's loss.
        parts: name -> (sum, count) of the step's loss parts.
    """
    inputs = {f"the input {name}": tensor for batch in batches for name, tensor in batch.items()}
    weights = {f"the weight {name}": tensor for name, tensor in model.state_dict().items()}
    gradients = {f"the gradient of {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    named_parts = {f"the loss part {name}": pair for name, pair in parts.items() if name != "loss"}
    found = [*_first(inputs), *_first(weights)]
    found += [f"the loss is {loss.item():g}"] if broken_tensors([("loss", loss)]) else []
    return [*found, *_first(named_parts), *_first(gradients)]


def broken_weights(model: PreTrainedModel) -> list[str]:
    """Names of weights and buffers with a value that is not finite."""
    return broken_tensors(model.state_dict().items())


def broken_moments(model: PreTrainedModel, optimizer: Optimizer) -> list[str]:
    """Names of optimizer state with a value that is not finite, such as `exp_avg of lm_head.weight`."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return broken_tensors(
        (f"{key} of {names.get(parameter, 'a parameter')}", value)
        for parameter, moments in optimizer.state.items()
        for key, value in moments.items()
        if isinstance(value, Tensor)
    )


def broken_tensors(named: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Names of those that hold NaN or an infinity."""
    return [name for name, tensor in named if tensor.is_floating_point() and not bool(tensor.isfinite().all())]


def _first(named: Mapping[str, Tensor]) -> list[str]:
    """The first broken one, and how many there are."""
    broken = broken_tensors(named.items())
    return [broken[0] + (f" ({len(broken)} tensors in all)" if len(broken) > 1 else "")] if broken else []
