"""A user's own broken model, from the plain Trainer to the doctor's command line. It learns for a minute and a half:

pytest -m benchmark tests/diagnose/test_own_model.py
"""

import json

import pytest

from eval.diagnose.__main__ import main as diagnose
from tests.diagnose import own_model

pytestmark = pytest.mark.benchmark

# Younger ones know token frequencies only, which are right at every offset.
LEARNED, YOUNG = ("--steps", "1000"), ("--steps", "120", "--width", "32")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The folder of the broken model, and of the same without the mistake."""
    made = tmp_path_factory.mktemp("own")
    assert own_model.main([str(made / "broken"), *LEARNED]) == 0
    assert own_model.main([str(made / "right"), *YOUNG, "--right"]) == 0
    return made


def fails_of(folder, capsys) -> dict[str, dict]:
    """Check -> finding, of the fails that the command line writes."""
    report = folder.parent / f"{folder.name}.json"
    code = diagnose([str(folder), "--only", "parity", "--json", str(report)])
    capsys.readouterr()
    found = json.loads(report.read_text(encoding="utf-8"))
    fails = {finding["check"]: finding for finding in found["findings"] if finding["verdict"] == "fail"}
    assert code == bool(fails)
    return fails


def test_labels_that_are_shifted_twice_are_named_from_the_folder(folders, capsys):
    finding = fails_of(folders / "broken", capsys)["parity.offset"]
    assert "shift" in finding["cause"]


def test_the_same_model_with_right_labels_gets_no_fail(folders, capsys):
    assert fails_of(folders / "right", capsys) == {}
