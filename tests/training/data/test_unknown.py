import logging

import pytest

from training.common.errors import InputError
from training.data.dialogue_jepa.pairs import PairPreparation
from training.data.settings import DataSettings, DialogueDataSettings, GeneratorDataSettings
from training.data.staged_generator.blocks import BlockPreparation
from training.data.text_jepa.rows import RowPreparation
from training.data.unknown import check_unknown, unknown_share

KNOWN = [f"the {word} of number {number} was here" for number in range(60) for word in ("cat", "dog", "bird")]
FOREIGN = [f"der Hund mit der Nummer {number} war gestern auch the" for number in range(60)]


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("JEPA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "known.txt").write_text("\n".join(KNOWN))
    (tmp_path / "foreign.txt").write_text("\n".join(FOREIGN))
    (tmp_path / "pairs.txt").write_text("\n".join(f"{line}\t{line}" for line in FOREIGN))
    return tmp_path


@pytest.fixture
def words(files):
    return RowPreparation(DataSettings(data=str(files / "known.txt")), 16).prepare().tokenizer


def prepare(kind, files, tokenizer, **settings):
    if kind == "text":
        return RowPreparation(DataSettings(data=str(files / "foreign.txt"), **settings), 16).prepare(tokenizer)
    if kind == "generator":
        settings = GeneratorDataSettings(data=str(files / "foreign.txt"), documents="rows", **settings)
        return BlockPreparation(settings, 16).prepare(tokenizer)
    settings = DialogueDataSettings(data=str(files / "pairs.txt"), tokenizer="word", **settings)
    return PairPreparation(settings, 16, 16).prepare(tokenizer)


@pytest.mark.parametrize("kind", ["text", "generator", "dialogue"])
def test_a_text_that_is_mostly_unknown_is_refused_unless_that_is_allowed(kind, files, words):
    with pytest.raises(InputError, match=r"of the tokens of .* are unknown to the tokenizer.*--allow_unknown"):
        prepare(kind, files, words)
    ready = prepare(kind, files, words, allow_unknown=True)
    assert 0.5 < ready.figures_of("valid")["unknown_share"] < 1
    assert ready.figures_of("train")["unknown_share"] == unknown_share(ready.reports["train"]["tokens"])


def test_the_unknown_share_of_phrases_counts_every_word_and_no_begin_or_end(files, words):
    ready = prepare("text", files, words, allow_unknown=True)
    counts = ready.reports["valid"]["tokens"]
    assert counts["tokens"] == 10 * len(ready.valid)
    assert counts["unknown"] == 8 * len(ready.valid)  # all but "the" and the number


def test_the_first_lines_say_the_unknown_share_even_where_it_is_nothing(files, caplog):
    with caplog.at_level(logging.INFO, logger="training.data"):
        RowPreparation(DataSettings(data=str(files / "known.txt")), 16).prepare()
    assert "tokens unknown to the tokenizer: 0.0% of train, 0.0% of valid" in caplog.messages


@pytest.mark.parametrize(("share", "warned"), [(0.1, False), (0.11, True), (0.5, True)])
def test_above_a_tenth_a_warning_names_the_share(share, warned, caplog):
    check_unknown(share, "a text", allowed=False)
    assert [f"{share:.0%} of the tokens of a text" in line for line in caplog.messages] == [True] * warned
