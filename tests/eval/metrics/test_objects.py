"""The metric objects: each describes itself, its example runs, and what scores hold comes from one of them."""

import ast
import doctest
import json
import re
from pathlib import Path

import evaluate
import numpy as np
import pytest

from eval.metrics.of_arrays import figures_of

CHECKOUT = Path(__file__).resolve().parents[3]
FOLDER = CHECKOUT / "eval" / "metrics"
METRICS = sorted(path.stem for path in FOLDER.glob("*.py") if "(evaluate.Metric)" in path.read_text(encoding="utf-8"))
# Family -> the metrics that score it, and how the names of some figures begin beside those that a metric gives.
SCORED_BY = {
    "text_jepa": ("fill_blank_ranking", "representation_spread"),
    "text_classifier": ("classification",),
    "staged_generator": ("language_modeling", "leak_gap", "attention_by_edge"),
    "dialogue_jepa": ("dialogue", "representation_spread"),
    "video_jepa": ("video",),
}
BEGINNINGS = ("target_", "argmax_", "expectation_", "reconstruction_", "sampled_")


@pytest.fixture(scope="module")
def infos() -> dict[str, evaluate.MetricInfo]:
    loaded = {name: evaluate.load(str(FOLDER / f"{name}.py"), keep_in_memory=True) for name in METRICS}
    return {name: metric.info for name, metric in loaded.items()}


def test_every_family_is_scored_by_metrics_that_are_there():
    assert {name for names in SCORED_BY.values() for name in names} | {"generation"} == set(METRICS)


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_loads_from_its_path_and_says_what_it_is_what_it_takes_and_whose_it_is(infos, name):
    info = infos[name]
    assert info.description
    assert re.match(r"\s*@\w+\{\w+,", info.citation)
    for part in ("Args:", "Returns:", "Examples:"):
        assert part in info.inputs_description
    arguments = info.inputs_description.split("Args:")[1].split("Returns:")[0]
    for column in info.features:
        assert re.search(rf"\b{column}\b", arguments), column


@pytest.mark.parametrize("name", METRICS)
def test_its_example_runs_as_it_stands(infos, name, monkeypatch):
    monkeypatch.chdir(CHECKOUT)
    example = doctest.DocTestParser().get_doctest(infos[name].inputs_description, {}, name, None, None)
    assert len(example.examples) >= 3
    results = doctest.DocTestRunner(verbose=False).run(example)
    assert results.failed == 0


@pytest.mark.parametrize("name", METRICS)
def test_it_gives_no_figure_that_it_does_not_name(infos, name, monkeypatch):
    monkeypatch.chdir(CHECKOUT)
    values = {}
    source = doctest.script_from_examples(infos[name].inputs_description)
    call = next(node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and is_compute(node))
    exec(source, values)
    figures = eval(ast.unparse(call), values)
    told = set(re.findall(r"\w+", infos[name].inputs_description.split("Returns:")[1].split("Examples:")[0]))
    assert set(figures) <= told


def is_compute(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Attribute) and call.func.attr == "compute"


@pytest.mark.parametrize("record", sorted((CHECKOUT / "model_cards" / "results" / "cards").glob("*.json")))
def test_every_score_of_a_reference_model_is_a_figure_of_a_metric_object(infos, record):
    kept = json.loads(record.read_text(encoding="utf-8"))
    told = set()
    for name in SCORED_BY[kept["run"]["family"]]:
        told |= set(re.findall(r"\w+", infos[name].inputs_description.split("Returns:")[1].split("Examples:")[0]))
    for figure in kept["score"]["metrics"]:
        bare = figure
        for beginning in BEGINNINGS:
            bare = bare.removeprefix(beginning)
        assert bare in told, figure


@pytest.mark.parametrize(("unknown", "share"), [(None, None), (0, 0.5), (7, 0.25)])
def test_the_share_of_unknown_tokens_is_counted_where_their_id_is_told(unknown, share):
    metric = evaluate.load(str(FOLDER / "language_modeling.py"), keep_in_memory=True)
    columns = {"predictions": [0, 0, 7, 8], "references": [0, 0, 7, 8], "nll": [1.0] * 4}
    assert metric.compute(**columns, unknown_id=unknown)["unknown_share"] == share


@pytest.mark.parametrize("name", METRICS)
def test_its_figures_of_arrays_are_those_it_computes(infos, name, monkeypatch):
    monkeypatch.chdir(CHECKOUT)
    values = {}
    source = doctest.script_from_examples(infos[name].inputs_description)
    call = next(node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and is_compute(node))
    exec(source, values)
    columns = {each.arg: eval(ast.unparse(each.value), values) for each in call.keywords}
    as_arrays = {key: np.array(each) if isinstance(each, list) else each for key, each in columns.items()}
    assert figures_of(type(values["metric"]), **as_arrays) == values["metric"].compute(**columns)
