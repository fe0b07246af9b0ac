"""Hierarchical credit assignment: which part of a model the error is due to, and updates scaled by it.

The tree is model > block > part: the embedding; each layer's attention and MLP; the head. The responsibility of a part
p is the squared norm of its gradient, summed over the steps since the last choice,

    r_p = sum over steps of ||dL / d theta_p||^2,        r_block = sum of its parts' r_p.

For gradient descent of an infinitesimal rate the loss falls by rate * ||dL / d theta||^2 per step, a sum over the
parts: r_p / sum of r is the share of that fall which part p can give. It adds up along the tree.

By itself that is nearly always largest for the token table (74 % of it in a trained model of 1M parameters), and all
other parts would starve. So by default responsibility is measured against what is usual for a part: r_p divided by a
moving average of its earlier values, for a block likewise. `absolute` compares the r_p themselves.

The most responsible part of the most responsible block gets its full update, its siblings in that block 15 %, all
others 5 %. Adam divides a gradient by its own size, so scaling gradients changes nothing (measured: a constant 0.001
changes parameters by 0.3 %); the *update* is scaled, by the learning rate of the part's group during `step()`. The
rate is put back right after it, so that a scheduler, which rewrites or multiplies rates, never sees the scaled one.

To learn a new text and keep the old one (`freezes`), the other blocks get nothing. Between two choices they are not
differentiated at all: backward ends at the lowest part that learns.
"""

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from training.run.state import RunState

SHARE = "credit/"
RATE = "credit_rate/"
_KEEP = 0.8  # share of its old value that what is usual keeps at every choice
_TINY = 1e-30


@dataclass(frozen=True)
class CreditRules:
    """How credit is given.

    Attributes:
        steps: a part is chosen every so many steps.
        siblings, rest: share of the update for the other parts of its block, and for all other blocks.
        floor: no share is below this.
        scales: whether updates are scaled, or only attributed.
        freezes: whether parts with a share of 0 are not differentiated in the steps between choices.
        measure: "relative" to what is usual for a part, or "absolute".
        control: "none", or what is done instead to compare with: "gradient_scaling", "random_part", "equal_rate".
        seed: of the random part.
    """

    steps: int = 10
    siblings: float = 0.15
    rest: float = 0.05
    floor: float = 0.05
    scales: bool = True
    freezes: bool = False
    measure: str = "relative"
    control: str = "none"
    seed: int = 0


def part_of(name: str) -> str:
    """The part that a parameter belongs to, as `block.part` (`layer_3.attention`), or `block` where that is one part.

    A norm belongs to the branch it feeds. The embedding's parts are its table, with what leads from it to the trunk,
    and the tokens' times.
    """
    layer = re.search(r"\blayers\.(\d+)\.(\w+)", name)
    if layer:
        return f"layer_{layer[1]}.{'mlp' if layer[2].startswith('mlp') else 'attention'}"
    if "token_times" in name:
        return "embedding.time"
    return "embedding.tokens" if "embed" in name or "block_attention" in name else "head"


def block_of(part: str) -> str:
    """The block of a part: `layer_3` of `layer_3.attention`."""
    return part.split(".")[0]


def most_responsible(errors: dict[str, float], usual: dict[str, float] | None = None) -> str:
    """The greatest part of the greatest block; the first one of equals.

    Args:
        errors: part -> r_p.
        usual: part -> what they are divided by, in sums over a block too; None for 1 (and no division of blocks).
    """
    blocks = dict.fromkeys(map(block_of, errors))
    members = {block: [part for part in errors if block_of(part) == block] for block in blocks}

    def measured(parts: list[str]) -> float:
        error = sum(errors[part] for part in parts)
        return error if usual is None else error / max(sum(usual[part] for part in parts), _TINY)

    block = max(members, key=lambda name: measured(members[name]))
    return max(members[block], key=lambda part: measured([part]))


def shares_of_update(parts: Iterable[str], chosen: str, rules: CreditRules) -> dict[str, float]:
    """Part -> share of its update, from 0 to 1, when `chosen` is the most responsible."""
    shares = {
        part: rules.siblings if block_of(part) == block_of(chosen) else rules.rest for part in parts if part != chosen
    }
    return {chosen: 1.0} | {part: max(share, rules.floor) for part, share in shares.items()}


class Credit:
    """Attributes the error at every optimizer step and, where its rules say so, scales the step of each part.

    Its state is plain numbers in `RunState`, so that a resumed run goes on exactly.

    Args:
        optimizer: each of its groups has a key `part` and holds parameters of that part only.
        run_state: gets the state.
    """

    def __init__(self, rules: CreditRules, optimizer: Optimizer, run_state: RunState) -> None:
        self.rules = rules
        self.run_state = run_state
        self.sizes: dict[str, int] = {}
        for group in optimizer.param_groups:
            count = sum(parameter.numel() for parameter in group["params"])
            self.sizes[group["part"]] = self.sizes.get(group["part"], 0) + count
        self._rates: list[Any] = []
        self._groups = optimizer.param_groups
        optimizer.register_step_pre_hook(self._before_step)
        optimizer.register_step_post_hook(self._after_step)

    def begin_step(self) -> None:
        """Before the first forward pass of a step: what it leaves as it is needs no gradient, save where it is to
        choose.
        """
        if not self.rules.freezes:
            return
        state = self._state()
        shares = {} if self._chooses(state) else self._shares(state["chosen"])
        for group in self._groups:
            learns = shares.get(group["part"], 1.0) > 0
            for parameter in group["params"]:
                parameter.requires_grad_(learns)

    def _chooses(self, state: dict[str, Any]) -> bool:
        return state["steps"] % self.rules.steps == 0

    def take_figures(self) -> dict[str, float]:
        """For a log row: each part's mean share of the error since the last row, and of its update."""
        state = self._state()
        count = state["logged_steps"]
        if not count:
            return {}
        total = sum(state["logged_error"].values()) or 1.0
        figures = {f"{SHARE}{part}": value / total for part, value in state["logged_error"].items()}
        figures |= {f"{RATE}{part}": value / count for part, value in state["logged_rate"].items()}
        state |= {"logged_steps": 0, "logged_error": dict.fromkeys(self.sizes, 0.0)}
        state["logged_rate"] = dict.fromkeys(self.sizes, 0.0)
        return figures

    def _state(self) -> dict[str, Any]:
        if self.run_state.credit is None:
            nothing = {name: dict.fromkeys(self.sizes, 0.0) for name in ("error", "logged_error", "logged_rate")}
            self.run_state.credit = {"steps": 0, "choices": 0, "chosen": None, "usual": None, **nothing}
            self.run_state.credit["logged_steps"] = 0
        return self.run_state.credit

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        errors = squared_gradients(optimizer, list(self.sizes))
        self._rates = []
        if errors is None:  # a step that is skipped
            return
        state = self._state()
        chooses = self._chooses(state)
        for part, error in errors.items() if chooses or not self.rules.freezes else ():
            state["error"][part] += error
            state["logged_error"][part] += error
        if chooses:
            self._choose(state)
        state["steps"] += 1
        state["logged_steps"] += 1
        shares = self._shares(state["chosen"])
        for part, share in shares.items():
            state["logged_rate"][part] += share
        if self.rules.scales:
            self._scale(optimizer, shares)

    def _choose(self, state: dict[str, Any]) -> None:
        usual = state["usual"] if self.rules.measure == "relative" else None
        state["chosen"] = most_responsible(state["error"], usual)
        if self.rules.control == "random_part":
            state["chosen"] = random.Random(f"{self.rules.seed} {state['choices']}").choice(list(self.sizes))
        state["choices"] += 1
        # The first choice has one step to go by; the others `steps` of them, but where parts are frozen in between.
        counted = 1 if state["choices"] == 1 or self.rules.freezes else self.rules.steps
        means = {part: error / counted for part, error in state["error"].items()}
        before = state["usual"] or means
        state["usual"] = {part: _KEEP * before[part] + (1 - _KEEP) * mean for part, mean in means.items()}
        state["error"] = dict.fromkeys(self.sizes, 0.0)

    def _shares(self, chosen: str) -> dict[str, float]:
        shares = shares_of_update(self.sizes, chosen, self.rules)
        if self.rules.control == "equal_rate":  # of all weights together
            mean = sum(self.sizes[part] * share for part, share in shares.items()) / sum(self.sizes.values())
            return dict.fromkeys(shares, mean)
        return shares

    def _scale(self, optimizer: Optimizer, shares: dict[str, float]) -> None:
        if self.rules.control == "gradient_scaling":
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.grad.mul_(shares[group["part"]])
            return
        for group in optimizer.param_groups:
            self._rates.append(group["lr"])
            group["lr"] = group["lr"] * shares[group["part"]]

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for group, rate in zip(optimizer.param_groups, self._rates, strict=bool(self._rates)):
            group["lr"] = rate
        self._rates = []


def squared_gradients(optimizer: Optimizer, parts: list[str]) -> dict[str, float] | None:
    """Part -> squared norm of its gradient; None where nothing has a gradient. Waits for the device once."""
    of_parts: dict[str, list[Tensor]] = {part: [] for part in parts}
    for group in optimizer.param_groups:
        of_parts[group["part"]] += [p.grad for p in group["params"] if p.grad is not None]
    found = {part: gradients for part, gradients in of_parts.items() if gradients}
    if not found:
        return None
    norms = [get_total_norm(gradients).double().square() for gradients in found.values()]
    return dict.fromkeys(parts, 0.0) | dict(zip(found, torch.stack(norms).tolist(), strict=True))
