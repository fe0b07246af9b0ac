"""Pictures of a run's log."""

import json

import pytest

from eval.advice.record import _read_log
from eval.plots.curves import curve, plot_run, read_log
from training.common.errors import InputError


@pytest.fixture
def log(tmp_path):
    rows = [{"step": step, "loss": 5.0 - step / 10, "ranking": 4.0, "cos_mean": None} for step in (10, 20, 30)]
    rows.insert(2, {"step": 20, "eval_mrr": 0.1})
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    return path


def test_a_curve_holds_the_rows_that_have_the_figure(log):
    assert curve(read_log(log), "loss") == ([10, 20, 30], [4.0, 3.0, 2.0])
    assert curve(read_log(log), "eval_mrr") == ([20], [0.1])
    assert curve(read_log(log), "cos_mean") == ([], [])


def test_the_picture_is_a_png_and_the_same_for_the_same_log(log, tmp_path):
    for name in ("one", "two"):
        plot_run(log, tmp_path / "plots" / f"{name}.png")
    first, second = ((tmp_path / "plots" / f"{name}.png").read_bytes() for name in ("one", "two"))
    assert first.startswith(b"\x89PNG")
    assert first == second


def test_a_damaged_line_is_named(log):
    log.write_text(log.read_text() + '{"step": 4', encoding="utf-8")
    with pytest.raises(InputError, match="line 6: not JSON"):
        read_log(log)


def test_a_log_without_losses_is_refused(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(InputError, match="no training loss yet"):
        plot_run(tmp_path / "log.jsonl", tmp_path / "x.png")


def test_the_representation_gets_panels_of_its_own(log, tmp_path):
    plot_run(log, tmp_path / "without.png")
    rows = [{"step": step, "eval_effective_rank": step / 2, "eval_mean_pairwise_cosine": 0.3} for step in (10, 20)]
    log.write_text(log.read_text() + "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    plot_run(log, tmp_path / "with.png")
    heights = [int.from_bytes((tmp_path / name).read_bytes()[20:24]) for name in ("without.png", "with.png")]
    assert heights[1] == 2 * heights[0]


def test_perplexity_and_credit_get_panels_of_their_own(log, tmp_path):
    plot_run(log, tmp_path / "without.png")
    figures = {"perplexity": 90.0, "credit/head": 0.4, "credit/layer_0.mlp": 0.6, "credit_rate/head": 0.05}
    rows = [{"step": step, "loss": 4.5, **figures} for step in (40, 50)]
    log.write_text(log.read_text() + "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    plot_run(log, tmp_path / "with.png")
    heights = [int.from_bytes((tmp_path / name).read_bytes()[20:24]) for name in ("without.png", "with.png")]
    assert 2 * heights[1] == 5 * heights[0]


@pytest.mark.parametrize("separator", ["\x85", "\u2028", "\u2029", "\x0b"], ids=ascii)
def test_a_line_separator_in_a_sample_ends_no_row(tmp_path, separator: str) -> None:
    rows = [{"step": 1, "samples": [f"the people{separator} of"]}, {"step": 2}]
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    assert read_log(path) == rows
    assert _read_log(path) == (rows, [])
