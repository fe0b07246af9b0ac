"""A few of the planted faults in a model that learns in seconds; `python -m tests.diagnose.table` has all of them."""

import copy
from dataclasses import replace

import pytest

from eval.diagnose.examine import GROUPS
from tests.diagnose import broken_models as models
from tests.diagnose import broken_training as training
from tests.diagnose import page, table
from tests.diagnose.cases import Case, data
from tests.diagnose.conversion_faults import CONVERSION
from tests.diagnose.family_faults import FAMILY_FAULTS
from tests.diagnose.faults import FAULTS
from tests.diagnose.healthy import HEALTHY
from tests.diagnose.tiny_training import Lesson, learn
from tests.diagnose.unseen_faults import UNSEEN

GROUPS_LOOKED_AT = ("leak", "size", "gradient", "distribution", "parity", "data")
SMALL = Lesson("gpt2", steps=150, batch_size=8, changes={"n_embd": 32, "resid_pdrop": 0.0, "embd_pdrop": 0.0})


@pytest.fixture(scope="module")
def trained() -> Case:
    """A small GPT-2 that knows a little, and some of its text."""
    learnt = learn(SMALL)
    parts = {"train": data()["train"][:600], "valid": data()["valid"][:100]}
    return Case(learnt.model.eval(), learnt.tokenizer, parts)


@pytest.fixture
def case(trained: Case) -> Case:
    """The same, free to be changed."""
    return replace(trained, model=copy.deepcopy(trained.model), tokenizer=copy.deepcopy(trained.tokenizer))


def test_a_healthy_model_gets_no_fail(case):
    assert case.examine(only=GROUPS_LOOKED_AT).fails() == set()


@pytest.mark.parametrize(
    ("change", "group", "expected"),
    [
        (models.sees_everything, "leak", "leak.future_tokens"),
        (models.sees_next, "leak", "leak.future_tokens"),
        (models.sees_everything_in_a_chunk, "leak", "leak.cache"),
        (models.mixes_rows, "leak", "leak.batch_mates"),
        (models.zeroes_a_layer, "gradient", "gradient.flow"),
        (models.detaches_a_branch, "gradient", "gradient.flow"),
        (models.holds_a_nan, "gradient", "gradient.non_finite"),
        (models.drops_always, "parity", "parity.random_in_evaluation"),
    ],
)
def test_a_fault_in_the_model_is_named(case, change, group, expected):
    harmed = replace(case, model=change(case.model))
    assert expected in harmed.examine(only=(group,)).fails()


@pytest.mark.parametrize(
    ("change", "expected"),
    [(training.trains_on_validation, "data.overlap"), (training.repeats_rows, "data.duplicates")],
)
def test_a_fault_in_the_data_is_named(case, change, expected):
    assert expected in replace(case, data=change(case.data)).examine(only=("data",)).fails()


def test_a_tokenizer_that_is_too_large_is_named(case):
    case.tokenizer.add_tokens(["government", "Congress", "country"])
    assert "parity.tokenizer_size" in case.examine(only=("parity",)).fails()


def test_the_table_has_every_fault_of_the_requirement_once():
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) == 26


def test_no_unseen_fault_is_one_of_the_others():
    assert len(UNSEEN) >= 12
    assert not {fault.name for fault in UNSEEN} & {fault.name for fault in FAULTS}


@pytest.mark.parametrize("fault", [*FAULTS, *UNSEEN, *CONVERSION, *FAMILY_FAULTS], ids=lambda fault: fault.name)
def test_every_expected_finding_belongs_to_a_group(fault):
    assert {name.split(".")[0] for name in fault.expected} <= set(GROUPS)


def test_the_healthy_set_has_many_architectures_and_untrained_models():
    assert len(HEALTHY) >= 14
    assert sum(bool(model.fails) for model in HEALTHY) >= 2


def test_a_fault_that_no_finding_names_counts_as_missed():
    missed = table.Row("faults", "a fault", "gpt2", 0, ["leak.cache"], fails=["parity.reload"])
    found = replace(missed, name="another", fails=["leak.cache"], found=["leak.cache"], right=True)
    counted = table.summary([missed, found])
    assert (counted["faults"]["right"], counted["faults_found_wherever_planted"]) == (1, 1)
    assert "**not found**" in table.markdown([missed, found])


def test_the_page_has_the_tables_of_the_results():
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.filled(text) == text
