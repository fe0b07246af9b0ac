import torch

from training.data.video_jepa.quantiser import Quantiser, learn_pictures


def stripes(count: int) -> torch.Tensor:
    """Squares of 4 x 4 pixels, one of 16 bars of some brightness each."""
    bars = torch.zeros(8, 4, 4)
    for place in range(4):
        bars[place, place] = bars[4 + place, :, place] = 1.0
    bright = torch.tensor([0.5, 1.0])[torch.arange(count) // 8 % 2]
    return (bars[torch.arange(count) % 8] * bright[:, None, None]).flatten(1)


def test_the_lattice_has_a_point_for_each_combination_of_levels():
    points = Quantiser(16, [8, 5, 2]).lattice()
    assert points.shape == (80, 3)
    assert len(points.unique(dim=0)) == 80
    assert points.abs().max() == 1


def test_any_latent_is_rounded_to_a_point_of_the_lattice_and_all_points_are_reached():
    for levels in ([8], [5], [2], [4, 3]):
        quantiser = Quantiser(16, levels)
        latents = 6 * torch.randn(4000, len(levels))
        found = quantiser.quantise(latents).unique(dim=0)
        assert torch.equal(found, quantiser.lattice().unique(dim=0))


def test_the_gradient_passes_the_rounding():
    latents = torch.tensor([[0.3, -0.2]], requires_grad=True)
    Quantiser(16, [8, 5]).quantise(latents).sum().backward()
    assert (latents.grad > 0.2).all()


def test_pictures_are_learned_and_one_is_black():
    squares = stripes(512)
    pictures = learn_pictures(squares, [8, 4], steps=300, refinements=3)
    assert pictures.shape == (32, 16)
    assert pictures.min() >= 0
    assert pictures.max() <= 1
    assert (pictures == 0).all(1).sum() == 1
    error = torch.cdist(squares, pictures).pow(2).min(1).values.mean()
    assert error < 0.2 * squares.pow(2).sum(1).mean()


def test_moving_to_the_mean_of_its_squares_makes_a_picture_better_and_leaves_black_alone():
    squares = stripes(512)
    errors = []
    for refinements in (0, 1, 4):
        pictures = learn_pictures(squares, [4, 3], steps=10, refinements=refinements)
        errors.append(float(torch.cdist(squares, pictures).pow(2).min(1).values.mean()))
        assert (pictures == 0).all(1).sum() == 1
    assert errors[0] > errors[1] >= errors[2]


def test_the_same_seed_learns_the_same_and_the_global_random_state_stays():
    before = torch.get_rng_state()
    first = learn_pictures(stripes(64), [4, 3], steps=3, refinements=0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert torch.equal(first, learn_pictures(stripes(64), [4, 3], steps=3, refinements=0))
