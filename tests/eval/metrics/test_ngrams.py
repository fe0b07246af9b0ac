"""The guessers beside which a causal model's figures stand."""

import math

import numpy as np
import pytest

from eval.metrics.ngrams import Bigram, Unigram


def test_a_unigram_guess_is_the_share_of_the_counts_with_one_added():
    guess = Unigram(np.array([0, 5, 2])).guess(np.array([1, 1, 1]), np.array([0, 1, 2]))
    np.testing.assert_allclose(np.exp(-guess.nll), [0.1, 0.6, 0.3])
    assert guess.predictions.tolist() == [1, 1, 1]


@pytest.fixture
def bigram():
    return Bigram.fit([np.array([0, 1, 2, 1, 2, 1, 3]), np.array([0, 1, 2])], vocab_size=5)


def test_a_bigram_guess_is_that_worked_by_hand(bigram):
    # Pairs: 01 twice, 12 three times, 21 twice, 13 once; n1 = 1, n2 = 2, so D = 1 / 5.
    assert bigram.discount == pytest.approx(0.2)
    # Contexts: of 1 two (0 and 2), of 2 one, of 3 one; four kinds of pairs, three kinds of tokens.
    lower = np.array([0, 1.8, 0.8, 0.8, 0]) / 4 + 0.2 * 3 / (4 * 5)
    np.testing.assert_allclose(bigram.lower, lower)
    # After 1: four pairs of two kinds.
    assert bigram.probability(np.array([1]), np.array([2]))[0] == pytest.approx(2.8 / 4 + 0.2 * 2 / 4 * lower[2])
    assert bigram.probability(np.array([1]), np.array([4]))[0] == pytest.approx(0.2 * 2 / 4 * lower[4])
    # Nothing stood after 3: the lower order alone.
    assert bigram.probability(np.array([3]), np.array([1]))[0] == pytest.approx(lower[1])


def test_probabilities_sum_to_one_after_every_token(bigram):
    for previous in range(5):
        assert bigram.probability(np.full(5, previous), np.arange(5)).sum() == pytest.approx(1.0)


def test_the_first_guess_is_the_most_likely_token(bigram):
    for previous in range(5):
        chances = bigram.probability(np.full(5, previous), np.arange(5))
        guess = bigram.guess(np.array([previous]), np.array([2]))
        assert chances[guess.predictions[0]] == pytest.approx(chances.max())
        assert guess.nll[0] == pytest.approx(-math.log(chances[2]))


def test_the_first_guess_is_right_for_random_text_too():
    text = np.random.default_rng(0).integers(0, 12, 400)
    bigram = Bigram.fit([text], vocab_size=15)
    chances = np.array([bigram.probability(np.full(15, v), np.arange(15)) for v in range(15)])
    np.testing.assert_allclose(chances.sum(axis=1), 1.0)
    np.testing.assert_allclose(chances[np.arange(15), bigram.best], chances.max(axis=1))


def test_without_any_text_every_token_is_as_likely():
    bigram = Bigram.fit([], vocab_size=4)
    np.testing.assert_allclose(bigram.probability(np.zeros(4, dtype=int), np.arange(4)), 0.25)
