"""The trainer: what a step is made of, what is logged, and what is never saved."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from tests.families import TEXT_JEPA
from training.common.errors import NonFiniteError
from training.families import load_family
from training.run.arguments import parse_arguments
from training.run.run import Run
from training.run.state import RunState
from training.trainer.build import build_config, build_model, build_trainer, prepare_data
from training.trainer.callbacks import TeacherUpdate
from training.trainer.trainer import JepaTrainer, full_precision

MakeTrainer = Callable[..., JepaTrainer]


@pytest.fixture
def make_trainer(tiny_recipe: Path, tmp_path: Path) -> MakeTrainer:
    """`make_trainer("--flag", "value", ...)`: a trainer of the tiny recipe, without dropout, not yet run."""

    def make(*flags: str) -> JepaTrainer:
        folder = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        (folder / "run.json").write_text("{}")
        argv = [str(tiny_recipe), "--device", "cpu", "--dropout", "0", "--output_dir", str(folder), *flags]
        run: Run = parse_arguments(argv)
        family = load_family(run.family)
        prepared = prepare_data(run, family)
        model = build_model(run, family, build_config(run, family, prepared), prepared)
        return build_trainer(run, family, prepared, model, RunState())

    return make


def test_after_a_resume_the_other_processes_reduce_the_same_names_and_add_nothing(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_trainer("--max_steps", "6", "--save_steps", "4")
    first.train()
    (checkpoint,) = Path(first.args.output_dir).glob("checkpoint-4")
    for is_main in (True, False):
        monkeypatch.setattr(Accelerator, "is_main_process", is_main)
        trainer = make_trainer("--max_steps", "6")
        trainer._load_from_checkpoint(str(checkpoint))
        saved = trainer.run_state.window
        expected = saved if is_main else {name: [0.0, 0.0] for name in saved}
        assert {"loss", "tokens"} <= saved.keys()
        assert trainer.window.reduced(trainer.accelerator) == expected


@pytest.mark.parametrize("skipped", ["by us", "by the scaler", "no"])
def test_the_teacher_follows_only_steps_that_were_made(skipped: str) -> None:
    moved: list[bool] = []
    model = SimpleNamespace(has_teacher=True, update_teacher=lambda: moved.append(True))
    optimizer = SimpleNamespace(step_was_skipped=skipped == "by the scaler")
    update = TeacherUpdate(RunState(skipped_in_a_row=int(skipped == "by us")))
    update.on_step_end(None, None, None, model=model, optimizer=optimizer)
    assert bool(moved) == (skipped == "no")


def weights(trainer: JepaTrainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def logged(trainer: JepaTrainer, name: str) -> list[float]:
    return [row[name] for row in trainer.state.log_history if name in row]


SHARED = ("--ranking", "shared", "--num_candidates", "8")


@pytest.mark.parametrize("ranking", [(), SHARED], ids=["full", "shared"])
def test_accumulation_2_equals_1_at_the_same_global_batch(make_trainer: MakeTrainer, ranking: tuple) -> None:
    whole = make_trainer("--logging_steps", "1", *ranking)
    halves = make_trainer(
        *("--logging_steps", "1", "--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2"), *ranking
    )
    whole.train()
    halves.train()
    for name in ("loss", "ranking", "alignment", "auxiliary", "cos_mean", "acc_neg", "grad_norm"):
        assert logged(halves, name) == pytest.approx(logged(whole, name), rel=1e-4, abs=1e-5), name
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(halves)[name], tensor, rtol=1e-3, atol=1e-5, msg=name)


def test_worker_processes_change_nothing(make_trainer: MakeTrainer) -> None:
    alone, helped = make_trainer("--max_steps", "4"), make_trainer("--max_steps", "4", "--dataloader_num_workers", "2")
    alone.train()
    helped.train()
    assert all(torch.equal(weights(helped)[name], tensor) for name, tensor in weights(alone).items())


def test_batches_straddle_passes_and_no_row_is_dropped(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("--max_steps", "50")
    rows = [(int(r), int(p)) for b in trainer.get_train_dataloader() for r, p in zip(b["row_id"], b["pass_index"])]  # noqa: B905
    count = len(trainer.parts.dataset)
    assert len(rows) == 50 * 8
    assert len({row for row, pass_index in rows if pass_index == 0}) == count
    assert all(len(batch["row_id"]) == 8 for batch in trainer.get_train_dataloader())


def test_a_window_is_masked_before_its_first_step_and_its_holes_are_counted(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("--gradient_accumulation_steps", "3")
    trainer.state.max_steps = 12
    batches, holes = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 3, torch.device("cpu"))
    assert len(batches) == 3
    assert int(holes) == sum(int((batch["labels"] != -100).sum()) for batch in batches) > 0
    assert set(batches[0]) == {"input_ids", "attention_mask", "labels", "negative_ids"}


def test_a_growing_mask_rate_follows_the_steps(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("--mask_rate", "0.1", "--mask_rate_final", "0.9")
    trainer.state.max_steps = 12
    counts = []
    for trainer.state.global_step in (0, 6, 11):
        batches = iter(trainer.get_train_dataloader())
        counts.append(int(trainer.get_batch_samples(batches, 1, torch.device("cpu"))[1]))
    assert counts == sorted(set(counts))


def test_a_log_row_holds_means_over_its_steps(make_trainer: MakeTrainer) -> None:
    each, every_third = make_trainer("--logging_steps", "1"), make_trainer("--logging_steps", "3")
    each.train()
    every_third.train()
    steps = [row["loss"] for row in each.state.log_history if "loss" in row]
    row = next(row for row in every_third.state.log_history if "loss" in row and row["step"] == 6)
    assert row["loss"] == pytest.approx(sum(steps[3:6]) / 3, rel=1e-6)
    assert row["passes"] == pytest.approx(6 * 8 / len(each.parts.dataset))
    assert row["tokens_per_second"] > 0


def test_the_logged_loss_is_the_weighted_sum_of_its_parts(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("--logging_steps", "1", "--alignment_weight", "0.5", "--auxiliary_weight", "0.2")
    trainer.train()
    for row in (row for row in trainer.state.log_history if "loss" in row):
        parts = row["ranking"] + 0.5 * row["alignment"] + 0.2 * row["auxiliary"]
        assert row["loss"] == pytest.approx(parts, rel=1e-4)


def test_acc_ema_is_092_old_and_008_new_at_every_row(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    trainer.train()
    expected = logged(trainer, "acc_neg")[0]
    for new, shown in zip(logged(trainer, "acc_neg"), logged(trainer, "acc_ema"), strict=True):
        expected = 0.92 * expected + 0.08 * new
        assert shown == pytest.approx(expected)


def test_the_learning_rate_follows_our_schedule(make_trainer: MakeTrainer) -> None:
    from tests.training.optim.rates import learning_rates
    from training.settings.common import TrainingSettings

    trainer = make_trainer("--logging_steps", "1")
    trainer.train()
    settings = TrainingSettings(max_steps=12, warmup_steps=2, learning_rate=3e-3)
    assert logged(trainer, "learning_rate") == pytest.approx(learning_rates(settings))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_number_that_is_not_finite_stops_the_run_within_the_step(
    make_trainer: MakeTrainer, precision: str, where: str
) -> None:
    trainer = make_trainer("--save_steps", "1", "--bf16", str(precision == "bf16"))
    forward = trainer.model.forward

    def poisoned(*args: object, **kwargs: object) -> object:
        output = forward(*args, **kwargs)
        if trainer.state.global_step == 2:
            broken = output.loss * float("nan") if where == "loss" else _with_nan_gradient(output.loss)
            output.loss = output["loss"] = broken
        return output

    trainer.model.forward = poisoned
    with pytest.raises(NonFiniteError, match=r"not finite at step 3: .*checkpoint-2"):
        trainer.train()
    saved = sorted(path.name for path in Path(trainer.args.output_dir).glob("checkpoint-*"))
    assert saved == ["checkpoint-1", "checkpoint-2"]
    assert all(tensor.isfinite().all() for tensor in weights(trainer).values())


class _NanGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, loss: torch.Tensor) -> torch.Tensor:
        return loss.clone()

    @staticmethod
    def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * float("nan")


def _with_nan_gradient(loss: torch.Tensor) -> torch.Tensor:
    return _NanGradient.apply(loss)


def test_weights_that_are_not_finite_are_never_saved(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    with torch.no_grad():
        next(trainer.model.parameters())[-1] = float("inf")
    with pytest.raises(NonFiniteError, match="nothing was saved"):
        trainer._save_checkpoint(trainer.model)
    assert list(Path(trainer.args.output_dir).glob("*checkpoint*")) == []


def test_the_best_smoothed_checkpoint_is_kept_though_newer_ones_rotate(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(
        *("--eval_steps", "2", "--save_steps", "2", "--save_total_limit", "1", "--best_smoothing", "0.5")
    )
    values = iter([0.0, 0.1, 0.9, 0.2, 0.1, 0.1, 0.1, 0.1])  # of steps 0 (no candidate), 2, 4, 6, 8, 10, 12
    trainer.parts.__dict__["score"] = lambda model: {"mrr": next(values)}
    trainer.train()
    state = trainer.run_state
    assert (state.best_step, state.best_value) == (4, pytest.approx(0.5))
    saved = {path.name for path in Path(trainer.args.output_dir).glob("checkpoint-*")}
    assert saved == {"checkpoint-4", "checkpoint-12"}


def test_milestones_keep_loss_figures_and_samples(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    trainer.train()
    rows = {row["step"]: row for row in trainer.run_state.milestones}
    assert list(rows) == [0, 6, 12]
    first = next(row for row in trainer.state.log_history if row["step"] == 1)
    assert rows[0]["loss"] == first["loss"]
    assert rows[12]["mrr"] == trainer.state.log_history[-2]["eval_mrr"]
    assert rows[6]["samples"][0].startswith("the red _ sees: ")


def test_a_teacher_moves_after_every_step(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("--target_table", "ema", "--max_steps", "5")
    trainer.train()
    assert int(trainer.model.teacher.num_updates) == 5


def test_fewer_rows_than_a_batch_are_refused(make_trainer: MakeTrainer) -> None:
    with pytest.raises(ValueError, match="fewer than one batch of 512"):
        make_trainer("--per_device_train_batch_size", "512")


def test_held_out_scores_are_not_rounded_by_mixed_precision():
    model = TEXT_JEPA.model()
    inputs = TEXT_JEPA.inputs(model.config)
    exact = model(**inputs).logits
    AcceleratorState._reset_state(reset_partial_state=True)  # a run before it may have chosen another precision
    model = Accelerator(cpu=True, mixed_precision="bf16").prepare_model(model)
    assert not torch.equal(model(**inputs).logits, exact)
    with full_precision(model):
        assert torch.equal(model(**inputs).logits, exact)
    assert not torch.equal(model(**inputs).logits, exact)


def test_a_model_started_from_another_keeps_its_weights_and_counts_this_runs_data(make_trainer: MakeTrainer, tmp_path):
    first = make_trainer()
    first.model.set_token_counts(torch.full_like(first.model.token_counts, 7))
    first.model.save_pretrained(tmp_path / "source")
    first.processing_class.save_pretrained(tmp_path / "source")
    second = make_trainer("--init_from", str(tmp_path / "source"), "--seed", "5")
    counts = make_trainer("--seed", "5").model.token_counts
    assert torch.equal(second.model.token_counts, counts)
    expected = first.model.state_dict() | {"token_counts": counts}
    assert all(torch.equal(tensor, expected[name]) for name, tensor in second.model.state_dict().items())
