"""What a model is made of, found by looking: its blocks, its matrices, what flows through them. No class of model."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from eval.diagnose import thresholds as limits
from eval.diagnose.subject.sample import Batch
from eval.diagnose.subject.subject import Subject, TooLargeError

Named = dict[str, nn.Module]
_BYTES_TO_TRAIN = 16  # a parameter of a copy in float32, its gradient and two moments
MATRIX_LAYERS = (nn.Linear, Conv1D)


def untouched(subject: Subject) -> bool | None:
    """Whether no training has changed the weights: most vectors (norms, biases) still hold one value throughout.

    They begin as all ones or all zeros, and the first step that an optimizer takes makes their entries differ. None
    for a model without such vectors.
    """
    teacher = frozen_teacher(subject)
    vectors = [p for p in subject.model.parameters() if p.ndim == 1 and p.numel() > 1 and p not in teacher]
    if not vectors:
        return None
    constant = sum(bool((vector == vector[0]).all()) for vector in vectors)
    return 2 * constant > len(vectors)


def frozen_teacher(subject: Subject) -> set[nn.Parameter]:
    """Parameters of a moving average: no gradient is meant to reach them."""
    return set() if subject.average is None else set(subject.average.teacher.parameters())


def trainable(subject: Subject) -> dict[str, nn.Parameter]:
    """Parameters that an optimizer would get, tied ones once."""
    teacher = frozen_teacher(subject)
    return {name: p for name, p in subject.model.named_parameters() if p.requires_grad and p not in teacher}


def above_random(weight: Tensor) -> float:
    """Largest singular value over that of random numbers of the same shape and size, less 1.

    Independent entries of standard deviation s in (m, n) have s (sqrt(m) + sqrt(n)) (the edge of the
    Marchenko-Pastur law), so 0 is a matrix that nothing was learnt in.
    """
    values = weight.detach().double()
    rows, columns = values.shape
    edge = values.square().mean().sqrt() * (math.sqrt(rows) + math.sqrt(columns))
    return float(torch.linalg.matrix_norm(values, ord=2) / edge.clamp_min(1e-300)) - 1.0


def blocks(model: nn.Module) -> Named:
    """The repeated layers: items of the outermost module lists that hold at least two matrices each."""
    found: Named = {}
    for name, module in model.named_modules():
        inside_another = any(name.startswith(f"{other}.") for other in found)
        if isinstance(module, nn.ModuleList) and not inside_another:
            found |= {f"{name}.{key}": item for key, item in module.named_children() if len(matrices(item)) > 1}
    return found


def matrices(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters of two and more axes by name."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.ndim > 1}


def share_of_zeros(module: nn.Module) -> float:
    """Of the entries of its matrices."""
    held = list(matrices(module).values())
    return sum(int((p == 0).sum()) for p in held) / max(1, sum(p.numel() for p in held))


def matrix_layers(model: nn.Module) -> Named:
    """Every layer that multiplies by a matrix."""
    return {name: module for name, module in model.named_modules() if isinstance(module, MATRIX_LAYERS)}


def in_rows(layer: nn.Module, weight: Tensor) -> Tensor:
    """(units, inputs): the weight of a matrix layer, or its gradient, with one row per unit."""
    return weight.T if isinstance(layer, Conv1D) else weight


def first_tensor(value: Any) -> Tensor | None:
    """The first floating tensor in what a module took or gave."""
    if isinstance(value, Tensor):
        return value if value.is_floating_point() else None
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return next((found for item in value if (found := first_tensor(item)) is not None), None)
    return None


@contextmanager
def watching(modules: Named, see: Callable[[str, Tensor | None, Any], None]) -> Iterator[None]:
    """While the model runs, `see(name, first input, output)` is told of every call of these modules, in order."""

    def hook(name: str) -> Callable[..., None]:
        return lambda module, args, kwargs, output: see(name, first_tensor((args, kwargs)), output)

    handles = [module.register_forward_hook(hook(name), with_kwargs=True) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def random_tokens(subject: Subject, batch: Batch) -> Batch:
    """The same shape with ids drawn evenly from the vocabulary: it reaches what ordinary text seldom does."""
    generator = torch.Generator().manual_seed(0)

    def drawn(ids: Tensor) -> Tensor:
        return torch.randint(0, subject.vocab_size, ids.shape, generator=generator).to(ids.device)

    source = None if batch.source_ids is None else drawn(batch.source_ids)
    return replace(batch, input_ids=drawn(batch.input_ids), source_ids=source)


def trained_copy(
    subject: Subject, inputs: dict[str, Tensor], steps: int, learning_rate: float
) -> tuple[PreTrainedModel, list[float]]:
    """A copy after some AdamW steps on one batch, and its loss before each of them and after the last.

    Raises:
        TooLargeError: there is no room for it.
    """
    check_room_to_train(subject)
    names, model = trainable(subject), subject.copy()
    parameters = [parameter for name, parameter in model.named_parameters() if name in names]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
    losses = []
    with torch.enable_grad():
        for _ in range(steps):
            loss = subject.own_loss(model, inputs)
            losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        losses.append(subject.own_loss(model, inputs).item())
    return model, losses


def check_room_to_train(subject: Subject) -> None:
    """Raise `TooLargeError` where a copy that is trained would take most of the memory that is free."""
    needed = _BYTES_TO_TRAIN * subject.parameters
    if subject.device.type == "cuda":
        free = torch.cuda.mem_get_info(subject.device)[0]
    else:
        free = psutil.virtual_memory().available
    if needed >= limits.MEMORY_SHARE * free:
        raise TooLargeError(f"training a copy of {subject.parameters:,} parameters needs {needed / 2**30:.1f} GiB")


def learning_batch(subject: Subject, rows: int | None = None) -> dict[str, Tensor]:
    """Inputs with labels, the same at every call: a quarter of the rows that the limits allow."""
    rows = rows or max(2, subject.limits.rows // 4)
    return subject.learning_inputs(subject.batch(rows, subject.limits.length))


def gradients_of(loss: Tensor, parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """Of the parameters that the loss reaches, even zero."""
    if not loss.requires_grad or not parameters:
        return {}
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {name: gradient for name, gradient in zip(parameters, found, strict=True) if gradient is not None}


def remembered(parameters: Sequence[nn.Parameter]) -> Callable[[], None]:
    """What puts these parameters back to their values of now, bit by bit."""
    kept = copy.deepcopy([parameter.detach() for parameter in parameters])

    def put_back() -> None:
        with torch.no_grad():
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)

    return put_back
