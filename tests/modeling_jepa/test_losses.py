"""Loss formulas against values worked by hand."""

import math

import pytest
import torch

from modeling_jepa import losses


@pytest.mark.parametrize("width", [128, 256, 512])
def test_cosine_of_random_vectors_is_zero_within_two_hundredths(width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 2000, width, generator=generator)
    assert abs(losses.cosine(first, second).mean().item()) < 0.02


def test_cosine_is_that_of_the_angle() -> None:
    first = torch.tensor([[2.0, 0.0], [1.0, 1.0], [3.0, 4.0]])
    second = torch.tensor([[0.0, 5.0], [1.0, 0.0], [-3.0, -4.0]])
    torch.testing.assert_close(losses.cosine(first, second), torch.tensor([0.0, math.sqrt(0.5), -1.0]))


def test_alignment_is_a_sum_over_the_width_not_a_mean() -> None:
    predictions = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 3.0, 0.0, 0.0]])
    targets = torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    assert losses.alignment_loss(predictions, targets).tolist() == pytest.approx([2.0, 2.0])
    distance = (losses.unit(predictions) - losses.unit(targets)).pow(2).sum()
    assert losses.alignment_loss(predictions, targets)[0].item() == pytest.approx(distance.item())


def test_auxiliary_is_one_minus_the_cosine() -> None:
    encoded = torch.tensor([[1.0, 1.0], [-2.0, 0.0]])
    targets = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert losses.auxiliary_loss(encoded, targets).tolist() == pytest.approx([1 - math.sqrt(0.5) + 2.0, 2.0])


@pytest.mark.parametrize("loss", [losses.alignment_loss, losses.auxiliary_loss])
def test_no_gradient_flows_into_a_target(loss) -> None:
    predictions, targets = torch.randn(2, 3, 8).requires_grad_().unbind()
    predictions, targets = predictions.detach().requires_grad_(), targets.detach().requires_grad_()
    loss(predictions, targets)[0].backward()
    assert predictions.grad.any()
    assert targets.grad is None


def test_ranking_is_the_cross_entropy_of_the_true_column() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [math.log(3.0), 0.0, -math.inf, -math.inf]])
    assert losses.ranking_loss(logits, torch.tensor([2, 0])).tolist() == pytest.approx(
        [math.log(4.0) + math.log(4.0 / 3.0), 2.0]
    )


def test_sampled_ranking_puts_the_true_token_beside_its_negatives() -> None:
    value = losses.sampled_ranking_loss(torch.tensor([math.log(2.0)]), torch.zeros(1, 6))
    assert value.tolist() == pytest.approx([math.log(8.0 / 2.0), 1.0])


def test_correction_takes_the_proposal_out_of_sampled_logits() -> None:
    """A token drawn twice as often counts half."""
    correction = torch.log(torch.tensor([[1.0, 2.0]]))
    value = losses.sampled_ranking_loss(torch.zeros(1), torch.zeros(1, 1), correction)
    assert value[0].item() == pytest.approx(math.log(1.5))


def test_equal_scores_are_not_above_the_negatives() -> None:
    target = torch.tensor([1.0, 1.0, 1.0])
    negatives = torch.tensor([[0.0, 0.5], [0.0, 1.0], [0.0, 2.0]])
    assert losses.above_negatives(target, negatives).tolist() == [1.0, 3.0]


def test_vicreg_is_zero_for_spread_and_uncorrelated_dimensions() -> None:
    vectors = 2.0 * torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert losses.vicreg_penalty(vectors).item() == pytest.approx(0.0, abs=1e-6)


def test_vicreg_of_a_collapsed_batch_is_its_hinge() -> None:
    assert losses.vicreg_penalty(torch.ones(5, 3)).item() == pytest.approx(1.0 - math.sqrt(1e-4))


def test_vicreg_counts_correlation_once_per_ordered_pair() -> None:
    column = torch.tensor([-2.0, 0.0, 2.0])
    covariance = 4.0
    assert losses.vicreg_penalty(torch.stack((column, column), dim=1)).item() == pytest.approx(2 * covariance**2 / 2)


def test_sigreg_is_smaller_for_a_gaussian_than_for_a_collapse() -> None:
    gaussian = torch.randn(4000, 16, generator=torch.Generator().manual_seed(0))
    assert losses.sigreg_penalty(gaussian, key=1).item() < 1e-3
    assert losses.sigreg_penalty(torch.zeros(4000, 16), key=1).item() > 0.1
    assert losses.sigreg_penalty(gaussian * 0.1, key=1).item() > 0.1


def test_sigreg_of_a_point_at_the_origin_is_the_integral() -> None:
    """Its characteristic function is 1: the statistic is the weighted square of 1 - exp(-t^2 / 2)."""
    points = torch.linspace(-5, 5, 17)
    gaussian = torch.exp(-points.pow(2) / 2)
    expected = torch.trapezoid((1 - gaussian).pow(2) * gaussian, points)
    torch.testing.assert_close(losses.sigreg_penalty(torch.zeros(3, 4), key=0), expected)


@pytest.mark.parametrize("penalty", [losses.vicreg_penalty, lambda vectors: losses.sigreg_penalty(vectors, 0)])
def test_a_penalty_of_no_vectors_is_zero_with_a_gradient(penalty) -> None:
    vectors = torch.zeros(0, 4, requires_grad=True)
    value = penalty(vectors)
    value.backward()
    assert value.item() == 0.0


def test_losses_are_float32_inside() -> None:
    predictions = torch.randn(4, 512, dtype=torch.bfloat16)
    part = losses.alignment_loss(predictions, predictions)
    assert part.dtype == torch.float32
    assert part[0].item() == pytest.approx(0.0, abs=1e-5)
