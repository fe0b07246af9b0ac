"""Credit assignment: whom the error is given to, and whose update is scaled by how much."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from training.optim.credit import Credit, CreditRules, block_of, most_responsible, part_of, shares_of_update
from training.optim.optimizers import BY_PART, ONE_PART, MuonWithAdamW, grouped_adamw
from training.run.state import RunState
from training.settings.staged_generator import GeneratorTrainingSettings

SETTINGS = GeneratorTrainingSettings(learning_rate=1e-2, weight_decay=0.1)


class Layer(nn.Module):
    """A branch for attention and one for the MLP, each with its norm."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn_norm, self.mlp_norm = nn.LayerNorm(6), nn.LayerNorm(6)
        self.self_attn, self.mlp = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = hidden + self.self_attn(self.self_attn_norm(hidden))
        return hidden + self.mlp(self.mlp_norm(hidden))


class Tiny(nn.Module):
    """Named as the families name their parts."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(11, 6)
        self.layers = nn.ModuleList([Layer(), Layer()])
        self.norm = nn.LayerNorm(6)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.embed_tokens(ids)
        for layer in self.layers:
            hidden = layer(hidden)
        return (self.norm(hidden) @ self.embed_tokens.weight.T).logsumexp(-1).square().mean()


PARTS = ["embedding.tokens", *(f"layer_{i}.{part}" for i in range(2) for part in ("attention", "mlp")), "head"]


@pytest.fixture
def model() -> Tiny:
    torch.manual_seed(0)
    return Tiny()


def backward(model: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    model.zero_grad()
    model(torch.randint(0, 11, (3, 5), generator=generator)).backward()


def changes(model: Tiny, optimizer: Optimizer) -> dict[str, torch.Tensor]:
    """What one step adds to every parameter, in double precision."""
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer.step()
    return {name: (p.detach().double() - before[name].double()) for name, p in model.named_parameters()}


def warmed(model: Tiny) -> AdamW:
    """AdamW with some history, so that its moments are no longer those of one gradient."""
    optimizer = grouped_adamw(model, SETTINGS, BY_PART)
    for step in range(4):
        backward(model, step)
        optimizer.step()
    backward(model, 4)
    return optimizer


def twin(model: Tiny, optimizer: Optimizer) -> tuple[Tiny, AdamW]:
    """The same weights, gradients and moments once more."""
    other = copy.deepcopy(model).double()
    moments = grouped_adamw(other, SETTINGS, BY_PART)
    moments.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for mine, its in zip(other.parameters(), model.parameters(), strict=True):
        mine.grad = its.grad.double()
    return other, moments


def test_every_parameter_has_a_part_and_a_group_holds_one(model: Tiny) -> None:
    assert sorted({part_of(name) for name, _ in model.named_parameters()}) == sorted(PARTS)
    optimizer = grouped_adamw(model, SETTINGS, BY_PART)
    of_parameter = {id(p): group["part"] for group in optimizer.param_groups for p in group["params"]}
    assert {part_of(name): of_parameter[id(p)] for name, p in model.named_parameters()} == {p: p for p in PARTS}
    assert len(of_parameter) == len(list(model.parameters()))


def test_only_matrices_and_tables_decay(model: Tiny) -> None:
    groups = grouped_adamw(model, SETTINGS, ONE_PART).param_groups
    assert {p.ndim for group in groups if group["weight_decay"] for p in group["params"]} == {2}
    assert {p.ndim for group in groups if not group["weight_decay"] for p in group["params"]} == {1}


def test_a_siblings_step_is_0_15_times_its_unmodified_adamw_step_and_that_of_the_rest_0_05(model: Tiny) -> None:
    optimizer = warmed(model)
    model.layers[1].mlp.weight.grad.mul_(100)  # a block with siblings is to blame
    ours, optimizer = twin(model, optimizer)
    plain, plain_optimizer = twin(ours, optimizer)
    state = RunState()
    Credit(CreditRules(), optimizer, state)
    scaled, unmodified = changes(ours, optimizer), changes(plain, plain_optimizer)
    assert state.credit["chosen"] == "layer_1.mlp"
    expected = dict.fromkeys(PARTS, 0.05) | {"layer_1.mlp": 1.0, "layer_1.attention": 0.15}
    for name, step in unmodified.items():
        assert torch.allclose(scaled[name], expected[part_of(name)] * step, rtol=1e-6, atol=0), name


@pytest.mark.parametrize("chosen", ["layer_1.mlp", "embedding.tokens"])
def test_the_shares_follow_the_tree(chosen: str) -> None:
    shares = shares_of_update(PARTS, chosen, CreditRules(siblings=0.3, rest=0.01, floor=0.02))
    expected = dict.fromkeys(PARTS, 0.02) | {chosen: 1.0}
    assert shares == (expected | {"layer_1.attention": 0.3} if chosen != "embedding.tokens" else expected)


def test_the_greatest_part_of_the_greatest_block_is_responsible() -> None:
    errors = {"embedding.tokens": 5.0, "layer_0.attention": 3.0, "layer_0.mlp": 2.5, "layer_1.mlp": 4.0, "head": 0.1}
    assert most_responsible(errors) == "layer_0.attention"


def test_the_part_whose_gradient_was_largest_over_the_window_is_chosen(model: Tiny) -> None:
    optimizer, state = grouped_adamw(model, SETTINGS, BY_PART), RunState()
    Credit(CreditRules(steps=2, measure="absolute"), optimizer, state)
    seen = []
    for part in ("layer_0.mlp", "layer_1.attention", "head", "embedding.tokens"):
        for name, parameter in model.named_parameters():
            parameter.grad = torch.full_like(parameter, 1.0 if part_of(name) == part else 1e-3)
        optimizer.step()
        seen.append(state.credit["chosen"])
    # The first choice has one step to go by; the next one those two since then, of which attention's is larger.
    assert seen == ["layer_0.mlp", "layer_0.mlp", "layer_1.attention", "layer_1.attention"]


def test_what_is_usual_for_a_part_and_a_block_is_what_they_are_measured_against() -> None:
    errors = {"embedding": 50.0, "layer_0.attention": 3.0, "layer_0.mlp": 2.0, "layer_1.mlp": 2.1}
    usual = {"embedding": 60.0, "layer_0.attention": 4.0, "layer_0.mlp": 1.0, "layer_1.mlp": 2.0}
    assert most_responsible(errors, usual) == "layer_1.mlp"
    assert most_responsible(errors | {"layer_0.attention": 4.0}, usual) == "layer_0.mlp"


def test_a_part_that_is_always_large_is_not_always_chosen(model: Tiny) -> None:
    optimizer, state = grouped_adamw(model, SETTINGS, BY_PART), RunState()
    Credit(CreditRules(steps=1), optimizer, state)
    seen = []
    for part in (None, "layer_0.mlp", "layer_1.attention", "head"):
        for name, parameter in model.named_parameters():
            large = 10.0 if part_of(name) == "embedding.tokens" else 0.1
            parameter.grad = torch.full_like(parameter, large * (2 if part_of(name) == part else 1))
        optimizer.step()
        seen.append(state.credit["chosen"])
    assert seen == ["embedding.tokens", "layer_0.mlp", "layer_1.attention", "head"]


@pytest.mark.parametrize("muon", [False, True])
def test_rates_are_put_back_so_that_a_scheduler_never_sees_a_scaled_one(model: Tiny, muon: bool) -> None:
    make = MuonWithAdamW if muon else grouped_adamw
    optimizer = make(model, SETTINGS, BY_PART)
    scheduler = LambdaLR(optimizer, lambda step: 1 / (1 + step))
    Credit(CreditRules(), optimizer, RunState())
    for step in range(5):
        backward(model, step)
        optimizer.step()
        assert {group["lr"] for group in optimizer.param_groups} == {1e-2 * (1 / (1 + step))}
        scheduler.step()


def test_analysis_alone_changes_no_weight(model: Tiny) -> None:
    other = copy.deepcopy(model)
    state = RunState()
    optimizers = [grouped_adamw(each, SETTINGS, BY_PART) for each in (model, other)]
    Credit(CreditRules(scales=False), optimizers[0], state)
    for step in range(3):
        for each, optimizer in zip((model, other), optimizers, strict=True):
            backward(each, step)
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert state.credit["chosen"] in PARTS


def test_scaled_gradients_change_nothing_under_adam_as_the_control_shows(model: Tiny) -> None:
    ours, plain = copy.deepcopy(model), model
    start = copy.deepcopy(model.state_dict())
    optimizers = [grouped_adamw(each, SETTINGS, BY_PART) for each in (ours, plain)]
    Credit(CreditRules(control="gradient_scaling", steps=100), optimizers[0], RunState())
    for each, optimizer in zip((ours, plain), optimizers, strict=True):
        for step in range(5):
            backward(each, step)
            optimizer.step()
    for (name, scaled), unscaled in zip(ours.named_parameters(), plain.parameters(), strict=True):
        moved = (unscaled - start[name]).norm()
        assert (scaled - unscaled).norm() < 0.03 * moved, name


def test_a_random_part_is_drawn_by_the_seed_alone(model: Tiny) -> None:
    drawn = []
    for seed in (1, 1, 2):
        optimizer, state = grouped_adamw(copy.deepcopy(model), SETTINGS, BY_PART), RunState()
        Credit(CreditRules(steps=1, control="random_part", seed=seed), optimizer, state)
        chosen = []
        for _ in range(12):
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = torch.ones_like(parameter)
            optimizer.step()
            chosen.append(state.credit["chosen"])
        drawn.append(chosen)
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) > 2


def test_equal_rates_have_the_mean_of_the_shares(model: Tiny) -> None:
    optimizer, state = warmed(model), RunState()
    credit = Credit(CreditRules(control="equal_rate"), optimizer, state)
    optimizer.step()
    rates = [value for name, value in credit.take_figures().items() if name.startswith("credit_rate/")]
    shares = shares_of_update(PARTS, state.credit["chosen"], CreditRules())
    sizes = {part: sum(p.numel() for n, p in model.named_parameters() if part_of(n) == part) for part in PARTS}
    assert rates == pytest.approx([sum(shares[p] * sizes[p] for p in PARTS) / sum(sizes.values())] * len(PARTS))


def test_the_log_gets_shares_that_sum_to_one_and_starts_anew_after_each_row(model: Tiny) -> None:
    optimizer, state = warmed(model), RunState()
    credit = Credit(CreditRules(), optimizer, state)
    optimizer.step()
    figures = credit.take_figures()
    assert sum(value for name, value in figures.items() if name.startswith("credit/")) == pytest.approx(1)
    assert figures[f"credit_rate/{state.credit['chosen']}"] == 1.0
    assert credit.take_figures() == {}


def test_a_step_without_gradients_counts_nothing(model: Tiny) -> None:
    optimizer, state = grouped_adamw(model, SETTINGS, BY_PART), RunState()
    Credit(CreditRules(), optimizer, state)
    optimizer.step()
    assert state.credit is None


@pytest.mark.parametrize("muon", [False, True])
def test_between_choices_the_other_blocks_are_not_differentiated_and_stay(model: Tiny, muon: bool) -> None:
    optimizer = (MuonWithAdamW if muon else grouped_adamw)(model, SETTINGS, BY_PART)
    state = RunState()
    credit = Credit(CreditRules(steps=3, rest=0.0, floor=0.0, freezes=True), optimizer, state)
    learnt = []
    for step in range(7):
        credit.begin_step()
        needs = {part_of(name) for name, p in model.named_parameters() if p.requires_grad}
        backward(model, step)
        without = {part_of(name) for name, p in model.named_parameters() if p.grad is None}
        moved = changes(model, optimizer)
        own = {part for part in PARTS if block_of(part) == block_of(state.credit["chosen"])}
        assert {part_of(name) for name, change in moved.items() if change.any()} <= own
        assert any(change.any() for change in moved.values())
        assert (needs, without) == ((set(PARTS), set()) if step % 3 == 0 else (own, set(PARTS) - own))
        learnt.append(state.credit["choices"])
    assert learnt == [1, 1, 1, 2, 2, 2, 3]


@pytest.mark.parametrize("muon", [False, True])
def test_a_resumed_optimizer_with_credit_goes_on_to_the_same_weights(model: Tiny, tmp_path: Path, muon: bool) -> None:
    make = MuonWithAdamW if muon else grouped_adamw

    def train(model: Tiny, optimizer: Optimizer, steps: range) -> None:
        for step in steps:
            backward(model, step)
            optimizer.step()

    optimizer, state = make(model, SETTINGS, BY_PART), RunState()
    Credit(CreditRules(steps=3), optimizer, state)
    train(model, optimizer, range(4))
    state.save(tmp_path)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "saved.pt")
    train(model, optimizer, range(4, 9))

    saved, again, resumed = torch.load(tmp_path / "saved.pt"), Tiny(), RunState()
    again.load_state_dict(saved["model"])
    its_optimizer = make(again, SETTINGS, BY_PART)
    Credit(CreditRules(steps=3), its_optimizer, resumed)
    resumed.restore(tmp_path)
    its_optimizer.load_state_dict(saved["optimizer"])
    train(again, its_optimizer, range(4, 9))
    assert resumed.credit == state.credit
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_muon_moves_the_matrices_of_the_trunk_and_adamw_the_rest(model: Tiny) -> None:
    optimizer = MuonWithAdamW(model, SETTINGS, ONE_PART)
    backward(model, 0)
    optimizer.step()
    kept = {name: set(optimizer.state[p]) for name, p in model.named_parameters()}
    for name, parameter in model.named_parameters():
        is_muons = parameter.ndim == 2 and name.startswith("layers.")
        assert ("momentum_buffer" in kept[name]) == is_muons, name
        assert ("exp_avg" in kept[name]) != is_muons, name
