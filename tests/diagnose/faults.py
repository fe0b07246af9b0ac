"""The faults that the doctor must name, each as a user would make it, in tiny models of several architectures.

`FAULTS` stands in the order of the requirement. `make(architecture, seed)` gives what is handed to the doctor. Where a
fault lives in the training, its run or its Trainer is handed over as well.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tests.diagnose import broken_models as models
from tests.diagnose import broken_training as training
from tests.diagnose.cases import (
    Case,
    Change,
    changed_data,
    damaged,
    generator,
    healthy,
    healthy_run,
    ours,
    trained_with,
)
from tests.diagnose.tiny_training import Mistake

ROUND = 100  # what another round of the table adds to every seed
SHORT = 250  # steps with which a faulty model has learnt its fault


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        name: as the requirement calls it.
        expected: checks of which at least one must find it.
        architectures: in which it is planted, the usual one first.
        make: (architecture, seed) -> what is handed over.
        seed: of weights and training, of the first architecture; the next ones count on from it.
    """

    name: str
    expected: tuple[str, ...]
    architectures: tuple[str, ...]
    make: Callable[[str, int], Case]
    seed: int


def built_wrong(change: Change, **lesson: Any) -> Callable[[str, int], Case]:
    """Trained with a wrong model."""
    return lambda architecture, seed: trained_with(change, architecture, seed, **{"steps": SHORT, **lesson})


def harmed(change: Change, **lesson: Any) -> Callable[[str, int], Case]:
    """Trained well, then harmed; in one round all such faults share their healthy model."""
    return lambda architecture, seed: damaged(change, architecture, seed=seed // ROUND, **lesson)


def taught_wrong(mistake: Mistake, **lesson: Any) -> Callable[[str, int], Case]:
    """Trained wrongly; run and Trainer are handed over."""
    return lambda architecture, seed: healthy_run(architecture, mistake, **{"seed": seed, "steps": SHORT, **lesson})


def _edge(architecture: str, seed: int) -> Case:
    if architecture != "staged_generator":
        return built_wrong(models.sees_next)(architecture, seed)
    case = generator(3)
    return replace(case, model=models.routes_to_the_next(case.model), run=None)


def _shifted_twice(architecture: str, seed: int) -> Case:
    """Trained for longer: what stands two places on is hard to learn."""
    case = taught_wrong(Mistake(collator=training.shifts_already), steps=700)(architecture, seed)
    return replace(case, trainer=None)


def _padding(architecture: str, seed: int) -> Case:
    wrong = training.counts_padding_of_answers if architecture in ("t5", "bart") else training.counts_padding
    case = taught_wrong(Mistake(collator=wrong), single=True)(architecture, seed)
    return replace(case, run=None)


def _visible(architecture: str, seed: int) -> Case:
    case = taught_wrong(Mistake(collator=training.counts_what_is_visible))(architecture, seed)
    return replace(case, run=None)


def _exploded(architecture: str, seed: int) -> Case:
    change = models.explodes_at_random if architecture in ("bert", "neox") else models.explodes
    return damaged(change, architecture, changes={"tie_word_embeddings": False} if architecture == "bert" else {})


def _saturated(architecture: str, seed: int) -> Case:
    if architecture == "bert":
        return damaged(models.shouts_one_token, architecture)
    case = taught_wrong(Mistake(collator=training.wants_the_end_always), steps=120)(architecture, seed)
    return replace(case, run=None, trainer=None)


def _rate_times_100(architecture: str, seed: int) -> Case:
    return healthy_run(architecture, Mistake(), seed=seed, steps=SHORT, learning_rate=0.4)


def _rate_zero(architecture: str, seed: int) -> Case:
    return healthy_run(architecture, Mistake(), seed=seed, steps=60, learning_rate=0.0)


def _dead_units(architecture: str, seed: int) -> Case:
    relu = {"gpt2": {"activation_function": "relu"}, "bert": {"hidden_act": "relu"}, "opt": {}}[architecture]
    return damaged(models.kills_units, architecture, changes=relu)


def _larger_tokenizer(architecture: str, seed: int) -> Case:
    case = healthy(architecture)
    words = ["government", "Congress", "people", "States", "country", "great", "nation", "American", "world", "peace"]
    case.tokenizer.add_tokens(words)
    return case


def _frozen_teacher(how: str, seed: int) -> Case:
    flags = ["--target_table", "ema", "--save_steps", "200"]
    if how == "never updated":
        return ours("text_jepa", *flags, seed=seed, stop_teacher=True)
    return ours("text_jepa", *flags, "--teacher_momentum", "0.99999999", seed=seed)


def _idle_predictor(how: str, seed: int) -> Case:
    if how == "no layers":
        return ours("text_jepa", "--predictor_layers", "0", seed=seed)
    case = ours("text_jepa", *(("--head", "softmax") if how == "softmax" else ()))
    return replace(case, model=models.predicts_nothing(case.model), run=None)


def _collapsed(architecture: str, seed: int) -> Case:
    """Of a latent model by its own loss: alignment alone, with a teacher that follows at once."""
    if architecture != "text_jepa":
        return damaged(models.says_the_same_everywhere, architecture)
    flags = (
        "--ranking_weight",
        "0",
        "--alignment_weight",
        "1",
        "--auxiliary_weight",
        "0",
        "--teacher_momentum",
        "0.5",
    )
    return replace(ours("text_jepa", "--target_table", "contextual", *flags, seed=seed), run=None)


def _data(change: Callable[..., Any]) -> Callable[[str, int], Case]:
    return lambda architecture, seed: replace(healthy(architecture), data=changed_data(change))


def _sampled(how: str, seed: int) -> Case:
    if how == "bert":
        case = healthy_run("bert", Mistake(metrics=training.accuracy_among_a_few))
        return replace(case, run=None)
    case = healthy_run(how, Mistake(metrics=training.accuracy_of_a_draw), seed=seed)
    return case if how == "gpt2" else replace(case, trainer=None)


FAULTS = (
    Fault(
        "no causal mask",
        ("leak.future_tokens",),
        ("llama", "gpt2", "neox"),
        built_wrong(models.sees_everything),
        1,
    ),
    Fault("an edge i -> i+1", ("leak.future_tokens",), ("neox", "llama", "staged_generator"), _edge, 2),
    Fault(
        "a leak only through the cache",
        ("leak.cache",),
        ("gpt2", "llama", "neox"),
        harmed(models.sees_everything_in_a_chunk),
        3,
    ),
    Fault("labels shifted by two", ("parity.offset",), ("gpt2", "llama", "opt"), _shifted_twice, 4),
    Fault(
        "labels not shifted",
        ("parity.offset", "parity.own_loss"),
        ("llama", "gpt2", "bloom"),
        built_wrong(models.does_not_shift),
        5,
    ),
    Fault("padding counted in the loss", ("data.padding_in_loss",), ("llama", "gpt2", "t5"), _padding, 6),
    Fault("loss counted on visible positions", ("data.visible_positions",), ("bert", "roberta"), _visible, 7),
    Fault("a batch-mate leak", ("leak.batch_mates",), ("gpt2", "bert", "t5"), built_wrong(models.mixes_rows), 8),
    Fault(
        "position ignored",
        ("leak.position_ignored",),
        ("bert", "llama", "gpt2"),
        built_wrong(models.forgets_positions),
        9,
    ),
    Fault(
        "learning rate x 100",
        ("training.learning_rate", "gradient.update_ratio", "memorise.learning_rate"),
        ("gpt2", "llama", "bert"),
        _rate_times_100,
        10,
    ),
    Fault(
        "learning rate 0",
        ("training.learning_rate", "gradient.update_ratio", "memorise.learning_rate"),
        ("neox", "bert", "t5"),
        _rate_zero,
        11,
    ),
    Fault("one layer zeroed", ("gradient.flow",), ("neox", "bert", "t5"), harmed(models.zeroes_a_layer), 12),
    Fault(
        "one branch detached",
        ("gradient.flow",),
        ("llama", "gpt2", "bert"),
        built_wrong(models.detaches_a_branch),
        13,
    ),
    Fault("dead ReLU units", ("size.dead_units",), ("opt", "gpt2", "bert"), _dead_units, 14),
    Fault(
        "exploded output weights (flat)",
        ("distribution.flat", "distribution.saturated"),
        ("llama", "neox", "bert"),
        _exploded,
        15,
    ),
    Fault("saturated on a wrong token", ("distribution.saturated",), ("gpt2", "llama", "bert"), _saturated, 16),
    Fault(
        "tied weights untied after reload",
        ("parity.tied_weights", "parity.reload"),
        ("gpt2", "llama", "t5"),
        harmed(models.unties),
        17,
    ),
    Fault(
        "tokenizer larger than the embedding table",
        ("parity.tokenizer_size",),
        ("llama", "gpt2", "bert"),
        _larger_tokenizer,
        18,
    ),
    Fault(
        "teacher frozen at its start",
        ("collapse.teacher_frozen",),
        ("never updated", "momentum 1"),
        _frozen_teacher,
        19,
    ),
    Fault(
        "predictor that is the identity",
        ("collapse.predictor_idle",),
        ("cosine", "softmax", "no layers"),
        _idle_predictor,
        20,
    ),
    Fault("collapsed encoder", ("collapse.representation",), ("text_jepa", "gpt2", "bert"), _collapsed, 21),
    Fault(
        "validation rows inside training",
        ("data.overlap",),
        ("llama", "bert"),
        lambda architecture, seed: _data(
            training.trains_on_validation if architecture == "llama" else training.trains_on_some_validation
        )(architecture, seed),
        22,
    ),
    Fault(
        "duplicate rows",
        ("data.duplicates",),
        ("gpt2", "bert"),
        lambda architecture, seed: _data(
            training.repeats_rows if architecture == "gpt2" else training.repeats_some_rows
        )(architecture, seed),
        23,
    ),
    Fault(
        "dropout left on in evaluation",
        ("parity.random_in_evaluation", "parity.train_eval"),
        ("llama", "bert", "t5"),
        built_wrong(models.drops_always),
        24,
    ),
    Fault("NaN in one parameter", ("gradient.non_finite",), ("gpt2", "bert", "t5"), harmed(models.holds_a_nan), 25),
    Fault(
        "a sampled metric passed for accuracy",
        ("sampling.claimed_accuracy",),
        ("gpt2", "bert", "llama"),
        _sampled,
        26,
    ),
)
