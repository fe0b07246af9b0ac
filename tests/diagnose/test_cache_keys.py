"""A model that was trained by other code is never taken for one of today's."""

import pytest

from tests.diagnose import broken_models, tiny_training
from tests.diagnose.tiny_training import Lesson, Mistake, learn, learn_ours, package_code


@pytest.fixture
def keys(monkeypatch):
    """Keys under which models are looked for; none is trained."""
    asked = []

    def cached(key, make):
        asked.append(key)
        raise LookupError

    text = tiny_training.text_folder()
    monkeypatch.setattr(tiny_training, "text_folder", lambda changed=None: text)
    monkeypatch.setattr(tiny_training, "cached", cached)
    return asked


def key_of(keys, make) -> str:
    with pytest.raises(LookupError):
        make()
    return keys.pop()


@pytest.mark.parametrize("name", ["modeling_jepa/text.py", "configuration_jepa/text.py", "training/own/step.py"])
def test_the_code_of_the_package_is_part_of_what_its_models_are_kept_by(monkeypatch, tmp_path, name):
    monkeypatch.setattr(tiny_training, "ROOT", tmp_path)
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_text("rate = 1\n", encoding="utf-8")
    before = package_code()
    assert package_code() == before
    path.write_text("rate = 2\n", encoding="utf-8")
    assert package_code() != before


def test_the_code_of_the_doctor_is_not(monkeypatch, tmp_path):
    monkeypatch.setattr(tiny_training, "ROOT", tmp_path)
    before = package_code()
    (tmp_path / "eval" / "diagnose").mkdir(parents=True)
    (tmp_path / "eval" / "diagnose" / "leaks.py").write_text("", encoding="utf-8")
    assert package_code() == before


def test_a_run_of_this_package_is_kept_by_the_packages_code(monkeypatch, keys):
    found = []
    for code in ("before", "before", "after"):
        monkeypatch.setattr(tiny_training, "package_code", lambda code=code: code)
        found.append(key_of(keys, lambda: learn_ours("text_jepa", ["--max_steps", "5"])))
    assert found[0] == found[1] != found[2]


def test_a_mistake_is_kept_by_all_of_the_file_that_it_stands_in(monkeypatch, keys):
    right = tiny_training._file_of

    def edited(made):
        return right(made) + ("# edited" if made is broken_models.sees_next else "")

    def key() -> str:
        return key_of(keys, lambda: learn(Lesson("gpt2"), Mistake(model=broken_models.sees_next)))

    before, healthy = key(), key_of(keys, lambda: learn(Lesson("gpt2")))
    monkeypatch.setattr(tiny_training, "_file_of", edited)
    assert key() != before
    assert key_of(keys, lambda: learn(Lesson("gpt2"))) == healthy
