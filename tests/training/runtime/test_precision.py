"""bfloat16 where a CPU has it, float32 where it would be emulated."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import Muon

from training.optim.muon import BatchedMuon, orthogonalised
from training.run.arguments import parse_arguments
from training.runtime import precision
from training.runtime.precision import cpu_has_bfloat16, precision_of
from training.trainer.build import training_arguments

SHAPES = [(6, 20), (20, 6), (9, 9), (20, 6), (6, 20), (20, 6)]  # those of one shape are taken together
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that has no bfloat16, and a user who did not ask for its emulation."""
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: False)
    monkeypatch.delenv(precision.EMULATE, raising=False)


def after_steps(optimizer: Callable[..., Muon], steps: int = 4, **settings: object) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    matrices = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    muon = optimizer(matrices, lr=0.1, weight_decay=0.2, momentum=0.9, **settings)
    for _ in range(steps):
        for matrix in matrices:
            matrix.grad = torch.randn(matrix.shape, generator=generator)
        muon.step()
    return [matrix.detach() for matrix in matrices]


LIBRARYS = {"adjust_lr_fn": "match_rms_adamw"}


def test_without_bfloat16_muon_is_the_librarys_but_for_its_roundings(without, monkeypatch) -> None:
    ours, rounded = after_steps(BatchedMuon), after_steps(Muon, **LIBRARYS)
    assert not any(torch.equal(mine, theirs) for mine, theirs in zip(ours, rounded, strict=True))
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda tensor: tensor.clone())
    for mine, theirs in zip(ours, after_steps(Muon, **LIBRARYS), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


def test_with_bfloat16_muon_is_the_librarys(monkeypatch) -> None:
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: True)
    for mine, theirs in zip(after_steps(BatchedMuon), after_steps(Muon, **LIBRARYS), strict=True):
        torch.testing.assert_close(mine, theirs, atol=5e-3, rtol=0)  # roundings of bfloat16


@pytest.mark.parametrize("shape", SHAPES[:3])
def test_orthogonalised_updates_have_singular_values_near_one(shape: tuple[int, int]) -> None:
    update = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonalised(update[None], COEFFICIENTS, 5).float())
    assert values.min() > 0.3
    assert values.max() < 1.3
    assert orthogonalised(torch.zeros(1, *shape), COEFFICIENTS, 5).abs().max() == 0


@pytest.mark.parametrize(
    ("machine", "onednn", "has"),
    [("x86_64", "avx512_bf16", True), ("AMD64", "", False), ("arm64", "", False), ("aarch64", "mkldnn", True)],
)
def test_instructions_are_looked_for_where_the_processor_keeps_them(monkeypatch, machine, onednn, has) -> None:
    monkeypatch.setattr(precision.platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: onednn == "avx512_bf16")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: onednn == "mkldnn")
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True, raising=False)
    assert cpu_has_bfloat16.__wrapped__() is has


@pytest.mark.parametrize("asked", ["run", "launcher"])
@pytest.mark.parametrize("has", [False, True])
def test_a_cpu_without_bfloat16_computes_in_float32_and_says_so(
    without, tiny_recipe: Path, tmp_path: Path, monkeypatch, caplog, has: bool, asked: str
) -> None:
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: has)
    flags = ["--bf16"] if asked == "run" else []
    if asked == "launcher":
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    run = parse_arguments([str(tiny_recipe), *flags, "--device=cpu", f"--output_dir={tmp_path / 'run'}"])
    with caplog.at_level(logging.WARNING):
        arguments = training_arguments(run)
    assert arguments.mixed_precision == ("bf16" if has else "no")
    assert arguments.bf16 is (has and asked == "run")
    assert precision_of(run) == ("bfloat16" if has else "float32")
    assert ("bf16: this CPU has no instructions for bfloat16" in caplog.text) is not has
    monkeypatch.setenv(precision.EMULATE, "1")
    assert training_arguments(run).mixed_precision == "bf16"
    monkeypatch.setenv(precision.EMULATE, "0")
    assert precision_of(run) == ("bfloat16" if has else "float32")


def test_who_asks_for_nothing_gets_float32_and_no_note(without, tiny_recipe: Path, tmp_path: Path, caplog) -> None:
    run = parse_arguments([str(tiny_recipe), "--device=cpu", f"--output_dir={tmp_path / 'run'}"])
    with caplog.at_level(logging.WARNING):
        assert training_arguments(run).mixed_precision == "no"
    assert precision_of(run) == "float32"
    assert not caplog.text
