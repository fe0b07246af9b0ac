"""Cross entropy in chunks equals the plain one, with its gradients, and never holds all logits."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from modeling_jepa import chunked_cross_entropy as module
from modeling_jepa.chunked_cross_entropy import NextTokenParts, chunked_cross_entropy, cross_entropy_parts

PREDICTIONS, WIDTH, VOCABULARY = 37, 16, 50
each_loss = pytest.mark.parametrize(("smoothing", "z_weight"), [(0.0, 0.0), (0.1, 0.0), (0.0, 0.01), (0.2, 0.02)])


@pytest.fixture(params=[1, 4 * VOCABULARY, PREDICTIONS * VOCABULARY], ids=lambda elements: f"{elements} logits")
def _chunked(request, monkeypatch) -> None:
    monkeypatch.setattr(module, "_CHUNK_ELEMENTS", request.param)


def inputs(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    hidden = torch.randn(PREDICTIONS, WIDTH, dtype=dtype, requires_grad=True)
    weight = torch.randn(VOCABULARY, WIDTH, dtype=dtype, requires_grad=True)
    return hidden, weight, torch.randint(0, VOCABULARY, (PREDICTIONS,))


def written_out(hidden, weight, targets, smoothing: float, z_weight: float) -> NextTokenParts:
    """The formula of the docstring."""
    log_normaliser = (hidden @ weight.T).logsumexp(-1)
    log_shares = hidden @ weight.T - log_normaliser[:, None]
    plain = -log_shares[torch.arange(len(targets)), targets]
    loss = (1 - smoothing) * plain + smoothing * -log_shares.mean(-1) + z_weight * log_normaliser**2
    return NextTokenParts(loss.sum(), plain.sum(), (log_shares.argmax(-1) == targets).sum().float())


def assert_same(first: NextTokenParts, second: NextTokenParts) -> None:
    torch.testing.assert_close(first.loss, second.loss)
    torch.testing.assert_close(first.cross_entropy, second.cross_entropy)
    assert first.correct == second.correct


@pytest.mark.usefixtures("_chunked")
@each_loss
def test_it_equals_the_formula_with_gradients(smoothing: float, z_weight: float) -> None:
    hidden, weight, targets = inputs()
    expected = written_out(hidden, weight, targets, smoothing, z_weight)
    found = chunked_cross_entropy(hidden, weight, targets, smoothing, z_weight)
    assert_same(found, expected)
    # Behind it stands the mean over a step: the gradient from above is not 1.
    ours = torch.autograd.grad(found.loss / 7, (hidden, weight))
    theirs = torch.autograd.grad(expected.loss / 7, (hidden, weight))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)


@each_loss
def test_from_logits_it_is_the_same(smoothing: float, z_weight: float) -> None:
    hidden, weight, targets = inputs()
    expected = written_out(hidden, weight, targets, smoothing, z_weight)
    assert_same(cross_entropy_parts(hidden @ weight.T, targets, smoothing, z_weight), expected)


def test_only_the_loss_has_a_gradient() -> None:
    found = chunked_cross_entropy(*inputs(), smoothing=0.1)
    assert found.loss.requires_grad
    assert not found.cross_entropy.requires_grad
    assert not found.correct.requires_grad


@pytest.mark.parametrize("frozen", ["hidden", "weight", "both"])
def test_what_is_frozen_gets_no_gradient(frozen: str) -> None:
    hidden, weight, targets = inputs()
    hidden.requires_grad_(frozen == "weight")
    weight.requires_grad_(frozen == "hidden")
    loss = chunked_cross_entropy(hidden, weight, targets).loss
    assert loss.requires_grad == (frozen != "both")
    if frozen != "both":
        loss.backward()
    assert (hidden.grad is None, weight.grad is None) == (frozen != "weight", frozen != "hidden")


def test_nothing_to_predict_is_no_loss_and_no_gradient() -> None:
    hidden, weight, targets = inputs()
    found = chunked_cross_entropy(hidden[:0], weight, targets[:0], 0.1, 0.1)
    found.loss.backward()
    assert (found.loss, found.cross_entropy, found.correct) == (0, 0, 0)
    assert not weight.grad.any()


def test_very_large_logits_stay_finite() -> None:
    hidden, weight, targets = inputs()
    loss = chunked_cross_entropy(hidden * 1e4, weight, targets, 0.1, 1e-4).loss
    loss.backward()
    assert loss.isfinite()
    assert hidden.grad.isfinite().all()


def cosine(first: torch.Tensor, second: torch.Tensor) -> float:
    return torch.nn.functional.cosine_similarity(first.flatten().float(), second.flatten().float(), dim=0).item()


@pytest.mark.usefixtures("_chunked")
@pytest.mark.parametrize("how", ["autocast", "weights"])
def test_bf16_is_close(how: str) -> None:
    hidden, weight, targets = inputs()
    exact = chunked_cross_entropy(hidden, weight, targets, 0.1, 1e-3)
    expected = torch.autograd.grad(exact.loss, (hidden, weight))
    if how == "weights":
        hidden, weight = (tensor.detach().bfloat16().requires_grad_() for tensor in (hidden, weight))
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        found = chunked_cross_entropy(hidden, weight, targets, 0.1, 1e-3)
    assert found.loss.dtype == torch.float32
    assert found.loss.item() == pytest.approx(exact.loss.item(), rel=0.01)
    gradients = torch.autograd.grad(found.loss, (hidden, weight))
    for gradient, wanted, tensor in zip(gradients, expected, (hidden, weight), strict=True):
        assert gradient.dtype == tensor.dtype
        assert cosine(gradient, wanted) > 0.999


class Largest(TorchDispatchMode):
    """The most elements of a tensor that came out of an operation."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_the_logits_of_the_whole_batch_never_exist(monkeypatch) -> None:
    monkeypatch.setattr(module, "_CHUNK_ELEMENTS", 4 * VOCABULARY)
    hidden, weight, targets = inputs()
    with Largest() as largest:
        chunked_cross_entropy(hidden, weight, targets, 0.1, 0.1).loss.backward()
    assert largest.elements == weight.numel()
    with Largest() as plain:
        cross_entropy_parts(hidden @ weight.T, targets).loss.backward()
    assert plain.elements == PREDICTIONS * VOCABULARY
