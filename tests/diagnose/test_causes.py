"""The cause of several findings comes first, and what it explains says so."""

import pytest

from eval.diagnose.examine import GROUPS
from eval.diagnose.report.causes import EXPLAINS, causes_first
from eval.diagnose.report.report import Finding


def finding(check: str, verdict: str = "fail") -> Finding:
    return Finding(
        check, verdict, {}, "right", "" if verdict == "pass" else "cause", "" if verdict == "pass" else "do"
    )


def told(*checks: str) -> list[tuple[str, str]]:
    found = [finding(*check.split()) for check in checks]
    return [(one.check, one.because) for one in causes_first(found)]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (("distribution.flat", "parity.offset"), [("parity.offset", ""), ("distribution.flat", "parity.offset")]),
        (
            ("leak.cache note", "memorise.sentence", "gradient.non_finite"),
            [
                ("gradient.non_finite", ""),
                ("leak.cache", "gradient.non_finite"),
                ("memorise.sentence", "gradient.non_finite"),
            ],
        ),
        (
            ("memorise.sentence", "distribution.worse_than_guessing", "repair.norm_offset"),
            [
                ("repair.norm_offset", ""),
                ("memorise.sentence", "repair.norm_offset"),
                ("distribution.worse_than_guessing", "repair.norm_offset"),
            ],
        ),
        (("data.duplicates", "distribution.flat"), [("distribution.flat", ""), ("data.duplicates", "")]),
        (("leak.future_tokens pass", "distribution.flat"), [("distribution.flat", ""), ("leak.future_tokens", "")]),
    ],
)
def test_the_cause_comes_first(found: tuple[str, ...], expected: list[tuple[str, str]]) -> None:
    assert told(*found) == expected


def test_nothing_explains_itself_or_its_own_cause() -> None:
    both = causes_first([finding("collapse.representation"), finding("distribution.unigram_only")])
    assert [one.because for one in both] == ["", "collapse.representation"]


def test_every_cause_and_consequence_is_of_a_group() -> None:
    assert {begins.split(".")[0] for begins, _ in EXPLAINS} <= set(GROUPS)
    assert {name.split(".")[0] for _, explained in EXPLAINS for name in explained if name} <= set(GROUPS)
