"""bfloat16 where a CPU has it, float32 where it would be emulated."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import Muon

from training import precision
from training.arguments import parse_arguments
from training.build import training_arguments
from training.precision import PortableMuon, autocasts_to_bfloat16, orthogonalised

SHAPES = [(6, 20), (20, 6), (9, 9)]
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that has no bfloat16, and a user who did not ask for its emulation."""
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: False)
    monkeypatch.delenv(precision.EMULATE, raising=False)


def after_steps(optimizer: Callable[..., Muon], steps: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    matrices = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    muon = optimizer(matrices, lr=0.1, weight_decay=0.2, momentum=0.9, adjust_lr_fn="match_rms_adamw")
    for _ in range(steps):
        for matrix in matrices:
            matrix.grad = torch.randn(matrix.shape, generator=generator)
        muon.step()
    return [matrix.detach() for matrix in matrices]


def test_without_bfloat16_muon_is_the_librarys_but_for_its_roundings(without, monkeypatch) -> None:
    ours, rounded = after_steps(PortableMuon), after_steps(Muon)
    assert not any(torch.equal(mine, theirs) for mine, theirs in zip(ours, rounded, strict=True))
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda tensor: tensor.clone())
    for mine, theirs in zip(ours, after_steps(Muon), strict=True):
        assert torch.equal(mine, theirs)


def test_with_bfloat16_muon_is_the_librarys(monkeypatch) -> None:
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: True)
    for mine, theirs in zip(after_steps(PortableMuon), after_steps(Muon), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("shape", SHAPES)
def test_orthogonalised_updates_have_singular_values_near_one(shape: tuple[int, int]) -> None:
    update = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonalised(update, COEFFICIENTS, 5))
    assert values.min() > 0.3
    assert values.max() < 1.3
    assert orthogonalised(torch.zeros(shape), COEFFICIENTS, 5).abs().max() == 0


def test_a_cpu_without_bfloat16_computes_in_float32_and_says_so(without, caplog, monkeypatch) -> None:
    with caplog.at_level(logging.WARNING):
        assert not autocasts_to_bfloat16(asked=True, on_cpu=True)
    assert "bf16: this CPU has no instructions for bfloat16" in caplog.text
    caplog.clear()
    assert autocasts_to_bfloat16(asked=True, on_cpu=False)
    assert not autocasts_to_bfloat16(asked=False, on_cpu=True)
    monkeypatch.setenv(precision.EMULATE, "1")
    assert autocasts_to_bfloat16(asked=True, on_cpu=True)
    assert not caplog.text


@pytest.mark.parametrize("has", [False, True])
def test_the_trainer_is_told(without, tiny_recipe: Path, tmp_path: Path, monkeypatch, has: bool) -> None:
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: has)
    run = parse_arguments([str(tiny_recipe), "--bf16", "--device=cpu", f"--output_dir={tmp_path / 'run'}"])
    assert training_arguments(run).bf16 is has
