import doctest

import pytest

from training.data.sources import sentences
from training.data.sources.sentences import split_sentences


def test_the_docstrings_examples_are_true():
    assert doctest.testmod(sentences).failed == 0


@pytest.mark.parametrize(
    "sentences",
    [
        ["He came.", "She left."],
        ["Is it?", "Yes!", "Really?!", "No."],
        ["he came .", "she left ."],
        ["Mr. J. Smith of St. Paul paid $3.50 in the U.S. on Jan. 3.", "He left."],
        ["See No. 5 of vol. 2.", "He said no.", "Then he left."],
        ['"Stop!" he cried.', "Nobody did."],
        ['he said " stop . "', "nobody did ."],
        ["No end here"],
    ],
)
def test_joined_sentences_are_split_at_the_same_places(sentences):
    assert split_sentences(" ".join(sentences)) == sentences


def test_no_text_is_lost():
    text = '... Well . . . " What ? " e.g. this ( and that . ) Fine.'
    assert "".join("".join(split_sentences(text)).split()) == "".join(text.split())


def test_white_space_alone_has_no_sentences():
    assert split_sentences("  ") == []
