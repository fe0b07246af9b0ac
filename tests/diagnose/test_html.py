"""The page of a report: everything is in it, nothing is fetched, and every series of the checks becomes a plot."""

import math
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from typing import Any

import pytest

from eval.diagnose.report.html import report_html
from eval.diagnose.report.pictures import COLOURS, pictures
from eval.diagnose.report.report import FAIL, NOTE, PASS, Finding, Report

FIGURES: dict[str, Any] = {
    "loss_vs_lnv": {"loss": 5.1, "ln_v": 8.3, "unigram": 6.2},
    "gradient_norms": [[f"model.layers.{i}.self_attn.q_proj.weight", 10.0**-i] for i in range(9)],
    "update_ratios": [[f"model.layers.{i}.mlp.down_proj.weight", 1e-3] for i in range(60)],
    "entropy_histogram": {"edges": [0, 1, 2, 3], "counts": [5, 2, 1]},
    "top1_mass_histogram": {"edges": [0, 0.5, 1], "counts": [5, 2]},
    "rank_histogram": {"edges": [1, 10, 100, 1000], "counts": [5, 2, 1]},
    "singular_values": {"table": [3.0, 2.0, 1.0], "layer 1": [1.0, 0.0, math.nan]},
    "calibration": {"confidence": [0.1, 0.9], "accuracy": [0.1, None], "counts": [5, 0]},
    "loss_curve": {"step": [1, 2, 3], "loss": [5.0, math.nan, 4.0], "held_out": [[1, 5.0], [3, 4.5]]},
}
EMPTY: dict[str, Any] = {
    "loss_vs_lnv": {"loss": math.nan, "ln_v": 8.3, "unigram": None},
    "gradient_norms": [["a", 0.0], ["b", math.inf]],
    "update_ratios": [],
    "entropy_histogram": {"edges": [0, 1], "counts": [0]},
    "top1_mass_histogram": {"edges": [0, 1], "counts": [0]},
    "rank_histogram": {"edges": [1, 2], "counts": [0]},
    "singular_values": {"table": [math.nan, 0.0]},
    "calibration": {"confidence": [None], "accuracy": [None], "counts": [3]},
    "loss_curve": {"step": [], "loss": [], "held_out": []},
}


def report(**changes: Any) -> Report:
    findings = [
        Finding("parity.length", PASS, {"change": 1e-7}, "below 1e-4"),
        Finding("leak.future_tokens", FAIL, {"distance": 1}, "below 1e-4", "no mask", "mask it", "python -m x"),
        Finding("data.duplicates", NOTE, {"share": 0.5}, "below 0.1", "rows twice", "remove them"),
    ]
    return Report("outputs/x", "causal", findings, 1_000, "builtin:sotu", ["cut down"], 3.0, **changes)


class Page(HTMLParser):
    """Collects the elements of a page, and checks that they are closed."""

    VOID = ("meta", "br", "link", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]
        self.open += [] if tag in self.VOID else [tag]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def html() -> str:
    """A page with all plots, drawn once for all tests that only read it."""
    return report_html(report(figures=FIGURES))


def test_the_page_holds_every_finding_the_worst_first_and_is_well_formed(html: str) -> None:
    page = Page(html)
    assert page.open == []
    places = [page.text.index(check) for check in ("leak.future_tokens", "data.duplicates", "parity.length")]
    assert places == sorted(places)
    for said in ("no mask", "mask it", "python -m x", "cut down", "1,000 parameters", "builtin:sotu"):
        assert said in page.text


def test_the_page_fetches_nothing_and_runs_nothing(html: str) -> None:
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.names)
    references = [value for name, value in page.attributes if name in ("src", "href", "xlink:href", "action")]
    assert all(value.startswith("#") for value in references)
    names_only = html.replace("http://www.w3.org/2000/svg", "").replace("http://www.w3.org/1999/xlink", "")
    assert not re.search(r"https?:|//|url\((?!#)|@import", names_only)


def test_light_and_dark_and_narrow_screens_are_served(html: str) -> None:
    assert "prefers-color-scheme: dark" in html
    assert 'name="viewport"' in html
    variables = {variable.removeprefix("var(").removesuffix(")") for variable in COLOURS.values()}
    assert all(html.count(f"{variable}:") == 2 for variable in variables)
    assert not re.search(r"(?:fill|stroke): ?#", html)  # every colour of a plot is one of the page's


def test_what_comes_from_outside_is_escaped() -> None:
    evil = "<script>alert(1)</script>&\"'"
    findings = [Finding("a.b", FAIL, {evil: [evil]}, evil, evil, evil, evil), Finding("a.c", PASS, {"x": evil}, evil)]
    figures = {"gradient_norms": [[evil, 1.0], ["$x", 1.0]], "singular_values": {evil: [1.0, 0.5], "_$": [1.0]}}
    page = Page(report_html(Report(evil, "causal", findings, 1, evil, [evil], figures=figures, versions={evil: evil})))
    assert "script" not in page.names
    assert page.text.count("alert(1)") > 8


def test_every_series_becomes_a_plot_with_its_reading_and_ids_of_its_own(html: str) -> None:
    drawn = pictures(FIGURES)
    assert {picture.name for picture in drawn} == set(FIGURES)
    for picture in drawn:
        root = ElementTree.fromstring(picture.svg)
        assert root.tag.endswith("svg")
        assert root.get("viewBox")
        assert root.get("width") is None
        assert len(picture.reading) > 40
    page = Page(html)
    assert len(page.ids) == len(set(page.ids))


@pytest.mark.parametrize("name", EMPTY)
def test_a_series_without_a_number_is_left_out(name: str) -> None:
    assert pictures({name: EMPTY[name]}) == []


def test_a_layer_without_gradient_is_marked() -> None:
    (picture,) = pictures({"gradient_norms": [["first", 1.0], ["second", 0.0], ["third", math.nan]]})
    assert ">0<" in picture.svg
    assert "not finite" in picture.svg
    assert "var(--bad)" in picture.svg


def test_of_too_many_layers_the_smallest_and_largest_are_shown() -> None:
    norms = [[f"layer{i}", 1.0 + i] for i in range(100)]
    norms[50][1] = 0.0
    (picture,) = pictures({"gradient_norms": norms})
    assert "layer50<" in picture.svg
    assert "layer99<" in picture.svg
    assert "layer40<" not in picture.svg
    assert "smallest and largest of 100" in picture.svg


def test_series_of_other_names_are_passed_over() -> None:
    assert pictures({"something else": [1, 2, 3]}) == []


def test_the_same_report_gives_the_same_bytes() -> None:
    few = {name: FIGURES[name] for name in ("loss_vs_lnv", "calibration")}
    assert report_html(report(figures=few)) == report_html(report(figures=few))
