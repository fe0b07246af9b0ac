"""Arms x seeds: keyed, resumable, one process each; tables with paired intervals."""

import json
from dataclasses import replace

import numpy as np
import pytest

from eval.benchmarks import cells as cells_module
from eval.benchmarks.cells import Arm, cell_key, code_of, collect, hash_paths, plan_cells, run_cells
from eval.benchmarks.statistics import difference, markdown, paired_interval
from training.common.errors import InputError

FAMILIES = ("text_jepa", "staged_generator", "dialogue_jepa", "video_jepa")
FUNCTION = "tests.eval.benchmarks.fake_cell:measure"


def _arm(name, level, calls, **settings):
    return Arm(name, {"level": level, "calls": str(calls), **settings}, FUNCTION)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two arms x two seeds, run once for all tests that only read them."""
    folder = tmp_path_factory.mktemp("cells")
    arms = [_arm("ours", 3, folder / "calls"), _arm("twin", 2, folder / "calls")]
    cells = plan_cells(arms, [0, 1], folder / "results")
    return cells, run_cells(cells, workers=2), folder


def test_each_cell_runs_once_in_a_one_thread_process_with_an_empty_folder(finished):
    cells, outcome, folder = finished
    assert len(outcome.ran) == len(cells) == 4
    lines = (folder / "calls").read_text().splitlines()
    assert sorted(lines) == ["2 0 1 0", "2 1 1 0", "3 0 1 0", "3 1 1 0"]


def test_a_result_says_what_made_it_and_what_it_cost(finished):
    cells, _, _ = finished
    result = json.loads(cells[0].path.read_text())
    assert (result["key"], result["seed"], result["arm"]["name"]) == (cells[0].key, 0, "ours")
    assert result["seconds"] > 0
    assert result["peak_memory_bytes"] > 2**20
    assert result["versions"]["torch"]


def test_finished_cells_are_kept_and_only_new_seeds_run(finished):
    cells, _, folder = finished
    before = (folder / "calls").read_text()
    outcome = run_cells(plan_cells([cell.arm for cell in cells[:2]], [0, 1], folder / "results"))
    assert (len(outcome.kept), len(outcome.ran)) == (4, 0)
    assert (folder / "calls").read_text() == before


def test_a_failing_cell_is_named_leaves_no_result_and_does_not_stop_the_others(tmp_path):
    cells = plan_cells([_arm("shaky", 1, tmp_path / "calls", fails_at=0)], [0, 1], tmp_path)
    outcome = run_cells(cells)
    assert [cell.done for cell in cells] == [False, True]
    assert "no such luck" in outcome.failed[cells[0].path.name]
    assert "Traceback" in cells[0].path.with_suffix(".log").read_text()


def test_the_key_changes_with_settings_seed_code_and_data_and_not_with_the_name():
    arm = Arm("a", {"x": 1}, FUNCTION)
    key = cell_key(arm, 0, "code", {"d": "1"})
    assert cell_key(replace(arm, name="b"), 0, "code", {"d": "1"}) == key
    changed = [
        cell_key(replace(arm, settings={"x": 2}), 0, "code", {"d": "1"}),
        cell_key(replace(arm, function="m:f"), 0, "code", {"d": "1"}),
        cell_key(arm, 1, "code", {"d": "1"}),
        cell_key(arm, 0, "other", {"d": "1"}),
        cell_key(arm, 0, "code", {"d": "2"}),
    ]
    assert len({key, *changed}) == 6


def test_a_change_in_one_family_asks_for_the_cells_of_the_recipes_of_that_family_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(cells_module, "CHECKOUT", tmp_path)
    (tmp_path / "exam.py").write_text("def take():\n    import text_jepa, video_jepa")
    recipes = {name: tmp_path / f"{name}.yaml" for name in ("text_jepa", "video_jepa")}
    arms = []
    for name, recipe in recipes.items():
        recipe.write_text(f"family: {name}\n")
        arms.append(Arm(name, {"recipe": str(recipe)}, "exam:take"))
    keys = []
    for number in range(2):
        (tmp_path / "text_jepa.py").write_text("a = 1")
        (tmp_path / "video_jepa.py").write_text(f"a = {number}")
        keys.append([cell.key for cell in plan_cells(arms, [0], tmp_path)])
    assert keys[0][0] == keys[1][0]
    assert keys[0][1] != keys[1][1]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_code_of_a_family_holds_no_model_and_no_data_of_families_that_it_does_not_use(family, repository):
    code = code_of(f"eval.benchmarks.exams.{family}:train_and_mark", family)
    models = {path.stem.removeprefix("modeling_") for path in code if path.stem.startswith("modeling_")}
    assert models - {"base"} == {family, *(["text_jepa"] if family == "dialogue_jepa" else [])}
    assert repository / "training" / "families" / f"{family}.py" in code


@pytest.mark.parametrize("family", FAMILIES)
def test_the_code_of_an_exam_holds_its_model_and_all_scorers_and_nothing_that_only_prints(family, repository):
    held = {str(path.relative_to(repository)) for path in code_of(f"eval.benchmarks.exams.{family}:train_and_mark")}
    assert f"modeling_jepa/modeling_{family}.py" in held
    assert {str(path.relative_to(repository)) for path in (repository / "eval" / "scorers").glob("[a-z]*.py")} <= held
    assert {"eval/benchmarks/exams/exam.py", "training/trainer/trainer.py", "training/common/errors.py"} <= held
    assert not held & {
        f"eval/benchmarks/{name}.py" for name in ("comparison", "columns", "readme_tables", "text_twin")
    }


def test_a_cell_is_asked_for_again_where_code_changes_that_its_function_imports(tmp_path, monkeypatch):
    monkeypatch.setattr(cells_module, "CHECKOUT", tmp_path)
    files = {name: tmp_path / f"{name}.py" for name in ("exam", "part", "other")}
    for name, file in files.items():
        file.write_text("def take():\n    import part" if name == "exam" else "a = 1")
    keys = []
    for name in (None, "other", "part"):
        if name is not None:
            files[name].write_text("a = 2")
        keys.append(plan_cells([Arm("a", {}, "exam:take")], [0], tmp_path)[0].key)
    assert keys[0] == keys[1] != keys[2]
    with pytest.raises(InputError, match="nowhere is no module"):
        plan_cells([Arm("a", {}, "nowhere:take")], [0], tmp_path)


def test_a_changed_recipe_or_data_file_asks_for_a_new_cell(tmp_path):
    recipe, data = tmp_path / "r.yaml", tmp_path / "d.txt"
    recipe.write_text("a: 1")
    data.write_text("one")
    arm = Arm("a", {"recipe": str(recipe)}, FUNCTION, data=(str(data), "builtin:sotu"))
    keys = [plan_cells([arm], [0], tmp_path)[0].key]
    recipe.write_text("a: 2")
    keys.append(plan_cells([arm], [0], tmp_path)[0].key)
    data.write_text("two")
    keys.append(plan_cells([arm], [0], tmp_path)[0].key)
    assert len(set(keys)) == 3


def test_the_hash_of_a_folder_sees_names_contents_and_nothing_that_the_pattern_leaves_out(tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "a.py").write_text("1")
    first = hash_paths(["code"], tmp_path, "*.py")
    (tmp_path / "code" / "a.pyc").write_text("cache")
    assert hash_paths(["code"], tmp_path, "*.py") == first
    (tmp_path / "code" / "a.py").rename(tmp_path / "code" / "b.py")
    assert hash_paths(["code"], tmp_path, "*.py") != first


def test_planning_refuses_arms_of_one_name_and_sources_that_are_not_there(tmp_path):
    arm = Arm("a", {}, FUNCTION)
    with pytest.raises(InputError, match="different names"):
        plan_cells([arm, arm], [0], tmp_path)
    with pytest.raises(InputError, match=r"'gone\.txt' is neither"):
        plan_cells([replace(arm, data=("gone.txt",))], [0], tmp_path)
    with pytest.raises(InputError, match="workers must be at least 1"):
        run_cells([], workers=0)


def test_a_paired_difference_is_of_the_seeds_and_metrics_that_both_arms_kept(finished):
    results = collect(finished[0])
    assert difference(results["ours"], results["twin"], "top1").difference == pytest.approx(0.25)
    assert difference(results["ours"], results["twin"], "cosine") is None


def test_a_table_is_markdown_with_numbers_on_the_right():
    assert markdown([["arm", "top1"], ["ours", "0.750"]]).splitlines() == [
        "| arm | top1 |",
        "| --- | ---: |",
        "| ours | 0.750 |",
    ]


def test_arms_that_answered_different_examples_are_not_compared(finished):
    results = collect(finished[0])
    results["twin"][0]["examples"]["ids"][0] = "else"
    with pytest.raises(InputError, match="different test examples"):
        difference(results["ours"], results["twin"], "top1")


def test_an_interval_covers_the_difference_and_shrinks_with_examples():
    generator = np.random.default_rng(0)
    few, many = (generator.random((3, n)) < 0.5 for n in (100, 10_000))
    wide = paired_interval(few.astype(float), np.zeros(few.shape))
    narrow = paired_interval(many.astype(float), np.zeros(many.shape))
    assert wide.low < 0.5 < wide.high
    assert narrow.low < 0.5 < narrow.high
    assert narrow.high - narrow.low < (wide.high - wide.low) / 4
    assert narrow.difference == pytest.approx(many.mean())


def test_pairing_takes_out_what_both_arms_share():
    hard = np.random.default_rng(0).random((2, 500))
    interval = paired_interval(hard + 0.01, hard)
    assert (interval.low, interval.high) == (pytest.approx(0.01), pytest.approx(0.01))


def test_blanks_of_one_row_are_no_independent_evidence():
    rows = np.random.default_rng(0).random(200)
    repeated = np.repeat(rows, 4)[None]
    zeros = np.zeros(repeated.shape)
    alone = paired_interval(repeated, zeros)
    clustered = paired_interval(repeated, zeros, clusters=np.repeat(np.arange(200), 4))
    assert (clustered.high - clustered.low) > 1.7 * (alone.high - alone.low)
    assert clustered.difference == pytest.approx(alone.difference)


def test_results_that_do_not_pair_are_refused():
    with pytest.raises(ValueError, match="two equal shapes"):
        paired_interval(np.zeros((2, 5)), np.zeros((2, 6)))


def test_where_weights_are_kept_is_no_part_of_a_key():
    keys = {cell_key(Arm("a", {"level": 1, "keep": place}, FUNCTION), 0, "code", {}) for place in ("here", "there")}
    assert len(keys) == 1
    assert cell_key(Arm("a", {"level": 2, "keep": "here"}, FUNCTION), 0, "code", {}) not in keys
