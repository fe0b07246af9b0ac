"""Figures of a language model and of its samples, against values worked out by hand."""

import math

import evaluate
import pytest

from eval.metrics.generation import known_words, prompt_copying, repetition, sample_figures, share_real_words
from eval.metrics.language_modeling import LanguageModeling, bits_per_byte, count_words, perplexity
from training.data.staged_generator.documents import size_of

# Four tokens with p = 1/2, 1/4, 1/8, 1/16: 1 + 2 + 3 + 4 = 10 bits.
NLL = [math.log(2), math.log(4), math.log(8), math.log(16)]


def test_figures_of_four_tokens_are_those_worked_by_hand():
    metric = LanguageModeling(keep_in_memory=True)
    figures = metric.compute(predictions=[1, 2, 3, 9], references=[1, 2, 3, 4], nll=NLL, words=2, num_bytes=5)
    assert figures["perplexity"] == pytest.approx(2**2.5)  # 10 bits over 4 tokens
    assert figures["word_perplexity"] == pytest.approx(2**5)  # 10 bits over 2 words
    assert figures["bits_per_byte"] == pytest.approx(2.0)  # 10 bits over 5 bytes
    assert figures["greedy_accuracy"] == 0.75
    assert figures["nll"] == pytest.approx(10 * math.log(2))
    assert (figures["tokens"], figures["words"], figures["bytes"]) == (4, 2, 5)


def test_a_uniform_guess_among_v_tokens_has_perplexity_v():
    assert perplexity(7 * math.log(50), 7) == pytest.approx(50)


def test_batches_add_up_to_one_pass():
    parts, whole = LanguageModeling(keep_in_memory=True), LanguageModeling(keep_in_memory=True)
    parts.add_batch(predictions=[1], references=[1], nll=NLL[:1])
    parts.add_batch(predictions=[2, 3, 9], references=[2, 3, 4], nll=NLL[1:])
    whole.add_batch(predictions=[1, 2, 3, 9], references=[1, 2, 3, 4], nll=NLL)
    assert parts.compute(words=3, num_bytes=9) == whole.compute(words=3, num_bytes=9)


def test_the_metric_loads_from_its_path_alone(repository):
    metric = evaluate.load(str(repository / "eval" / "metrics" / "language_modeling.py"), keep_in_memory=True)
    assert metric.compute(predictions=[1], references=[1], nll=[0.0])["perplexity"] == 1.0


def test_what_cannot_be_said_is_none_and_never_infinite():
    figures = LanguageModeling(keep_in_memory=True).compute(predictions=[1], references=[1], nll=[0.5])
    assert figures["word_perplexity"] is None
    assert figures["bits_per_byte"] is None
    assert perplexity(1.0, 0) is None
    assert bits_per_byte(1.0, 0) is None
    assert perplexity(1e6, 1) is None


def test_words_and_line_ends_are_counted_as_published_figures_count_them():
    assert count_words(" = Title = \n \n The cat sat . \n") == 3 + 4 + 3
    assert count_words("one two") == 2 + 1  # the end of the document is that of its line
    assert count_words("one two", ended=False) == 2


@pytest.mark.parametrize("text", ["one two\n\nthree\n", "four", "\n a \n"])
def test_words_are_counted_as_the_data_layer_counts_them(text):
    size = size_of([text])
    assert count_words(text) == size.words + size.line_ends


def test_repetition_is_the_share_of_four_grams_seen_before():
    assert repetition("a b c d e f g".split()) == 0.0
    assert repetition("a b c d a b c d".split()) == pytest.approx(1 / 5)  # abcd bcda cdab dabc abcd
    assert repetition("x x x x x x".split()) == pytest.approx(2 / 3)  # three times xxxx
    assert repetition("a b c".split()) is None


def test_prompt_copying_is_the_share_of_four_grams_that_stand_in_the_prompt():
    prompt = "the capital of india is".split()
    assert prompt_copying(prompt, "the capital of india was not".split()) == pytest.approx(1 / 3)
    assert prompt_copying(prompt, "a b c d e".split()) == 0.0
    assert prompt_copying("too short".split(), "a b c d e".split()) is None
    assert prompt_copying(prompt, "of india is".split()) is None


def test_real_words_are_those_of_the_training_part_whatever_their_capitals():
    words = known_words(["The cat doesn't sit.", "On 12 mats"])
    assert words == {"the", "cat", "doesn't", "sit", "on", "mats"}
    assert share_real_words("the CAT zzgl, doesn't!", words) == pytest.approx(3 / 4)
    assert share_real_words("12 ... 7", words) is None


def test_figures_of_a_sample_are_given_together():
    figures = sample_figures("a b c d", "a b c d a b c d", None)
    assert figures.real_words is None
    assert figures.repetition == pytest.approx(1 / 5)
    assert figures.prompt_copying == pytest.approx(2 / 5)
