"""acc_neg is set beside the rank in the whole vocabulary, and rows of a table that nobody can tell apart are found."""

import pytest
import torch

from eval.diagnose.checks.ranking import crowding, full_rank
from modeling_jepa import TextJepaForMaskedLM
from tests.diagnose.small_subjects import WORDS, latent_subject


def knows_frequencies(model: TextJepaForMaskedLM) -> None:
    """Scores by how often a word stands; what the context says moves hardly anything."""
    model.head.decoder.bias.copy_(-torch.arange(-5, WORDS, dtype=torch.float32).clamp_min(-1).abs().log1p())
    model.head.decoder.bias[:5] = -8.0


def test_chance_is_called_chance() -> None:
    found = full_rank(latent_subject())
    assert found.verdict == "pass"
    assert found.evidence["acc_neg"] < 0.2


def test_a_guess_by_frequency_is_named_where_acc_neg_flatters_it(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = latent_subject(knows_frequencies, head="softmax", frequency_bias=True, num_negatives=1)
    monkeypatch.setattr("eval.diagnose.thresholds.POOR_MEDIAN_RANK", 5.0)  # of 125 words, where language has thousands
    found = full_rank(subject)
    assert found.verdict == "note"
    assert found.evidence["acc_neg"] > 0.7
    assert found.evidence["top1"] <= found.evidence["most_frequent_share"] + 2 * found.evidence["top1_error"]
    assert sum(subject.figures["rank_histogram"]["counts"]) == found.evidence["holes"]


def test_the_figures_go_by_frequency_the_most_frequent_first() -> None:
    found = full_rank(latent_subject(knows_frequencies, head="softmax", frequency_bias=True))
    ranks = found.evidence["median_rank_by_frequency"]
    assert ranks[0] <= ranks[-1]
    assert len(ranks) == 10


def test_a_random_table_is_not_crowded_and_one_of_equal_rows_is() -> None:
    subject = latent_subject()
    assert crowding(subject).verdict == "pass"
    assert len(subject.figures["singular_values"]["table"]) == 32

    def crowd(model: TextJepaForMaskedLM) -> None:
        table = model.model.embed_tokens.weight
        table.copy_(table[:1] + 1e-4 * torch.randn_like(table))

    assert crowding(latent_subject(crowd)).verdict == "fail"
