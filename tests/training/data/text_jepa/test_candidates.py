"""Candidates of a step: its holes' answers and tokens drawn by frequency."""

import numpy as np
import pytest
import torch

from training.common.errors import InputError
from training.data.text_jepa.candidates import SharedCandidates
from training.data.text_jepa.masking import IGNORED
from training.data.tokenization import TokenIds

VOCABULARY = 200
TOKENS = TokenIds(vocab_size=VOCABULARY, mask_token_id=2, special_ids=(0, 1, 2, 3, 4))
COUNTS = np.array([0] * 5 + [3000 // (rank + 1) for rank in range(VOCABULARY - 5)])


def finder(
    number: int = 20, until: float = 0.8, seed: int = 0, counts: np.ndarray | None = COUNTS
) -> SharedCandidates:
    return SharedCandidates(TOKENS, counts, number, until, seed)


def some_labels(rows: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(5, VOCABULARY, (rows, 10), generator=generator)
    return labels.masked_fill(torch.rand(labels.shape, generator=generator) < 0.7, IGNORED)


def find(
    labels: list[torch.Tensor], step: int = 3, progress: float = 0.1, over=lambda values: values, **given
) -> dict:
    return finder(**given)([{"labels": each} for each in labels], step, progress, over)


def test_all_answers_are_among_them_each_once_and_no_special_token() -> None:
    labels = some_labels()
    found = find([labels])["candidate_ids"]
    assert set(labels[labels != IGNORED].tolist()) <= set(found.tolist())
    assert torch.equal(found, found.unique())
    assert found.min() >= 5


def test_they_are_the_same_for_any_cut_of_the_step_and_any_number_of_processes() -> None:
    labels = some_labels()
    whole = find([labels])
    others = torch.bincount(labels[4:][labels[4:] != IGNORED], minlength=VOCABULARY)
    for found in (find([labels[:3], labels[3:]]), find([labels[:4]], over=lambda values: values + others)):
        assert torch.equal(found["candidate_ids"], whole["candidate_ids"])
        assert torch.equal(found["candidate_log_chances"], whole["candidate_log_chances"])


def test_step_and_seed_draw_others() -> None:
    labels = [some_labels()]
    first = find(labels)["candidate_ids"]
    assert torch.equal(first, find(labels)["candidate_ids"])
    for other in (find(labels, step=4), find(labels, seed=1)):
        assert not torch.equal(first, other["candidate_ids"])


def test_the_chance_is_how_often_a_token_is_a_candidate() -> None:
    generator = torch.Generator().manual_seed(5)
    often, sums, draws = torch.zeros(VOCABULARY), torch.zeros(VOCABULARY), 2000
    shares = torch.tensor(COUNTS / COUNTS.sum())
    candidates = finder()
    for step in range(draws):
        labels = torch.multinomial(shares, 12, replacement=True, generator=generator)
        found = candidates([{"labels": labels[None]}], step, 0.0, lambda values: values)
        often[found["candidate_ids"]] += 1
        sums[found["candidate_ids"]] = found["candidate_log_chances"].exp()
    seen = often > 400
    torch.testing.assert_close(often[seen] / draws, sums[seen], rtol=0.15, atol=0.0)


def test_the_last_steps_have_none() -> None:
    assert find([some_labels()], progress=0.8) == {}
    assert find([some_labels()], progress=0.79)


def test_a_step_of_one_hole_and_lacking_counts_are_refused() -> None:
    labels = torch.full((1, 4), IGNORED)
    labels[0, 2] = 7
    with pytest.raises(InputError, match="shared needs more than one hole in a step"):
        find([labels])
    with pytest.raises(InputError, match="shared needs the training part's token counts"):
        finder(counts=None)
