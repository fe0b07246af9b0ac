"""Models with nothing wrong: the doctor may say no `fail` of any of them, and of an untrained one only that.

Stock architectures and our own families, tiny and trained; with and without the run and the Trainer that they come
from. `pretrained` adds a folder of published weights.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from eval.diagnose.opening import open_checkpoint
from tests.diagnose.broken_training import honest_accuracy
from tests.diagnose.cases import Case, data, fresh, generator, healthy, healthy_run, ours
from tests.diagnose.tiny_training import Mistake

MOVING_AVERAGE = ("--target_table", "ema", "--save_steps", "200")
UNTRAINED = frozenset({"distribution.untrained"})


@dataclass(frozen=True)
class Healthy:
    """One model without a fault, and the only fails that it may get: all of them, where there are any."""

    name: str
    make: Callable[[], Case]
    fails: frozenset[str] = frozenset()


def _alone(architecture: str) -> Healthy:
    return Healthy(architecture, lambda: healthy(architecture))


def _with_run(architecture: str, seed: int = 0, **lesson: object) -> Healthy:
    """With its run and Trainer; the metrics do not change what is learnt, but are part of its name."""
    return Healthy(
        f"{architecture}, run and Trainer",
        lambda: healthy_run(architecture, seed=seed, **lesson),
    )


def _honest_metric() -> Case:
    """With an accuracy that is one."""
    return healthy_run("gpt2", Mistake(metrics=honest_accuracy), seed=1, single=True)


HEALTHY = (
    _alone("gpt2"),
    Healthy("gpt2, accuracy in its Trainer", _honest_metric),
    _alone("llama"),
    _with_run("llama"),
    _alone("neox"),
    _alone("bloom"),
    _with_run("opt"),
    _alone("bert"),
    _with_run("bert"),
    _alone("roberta"),
    _alone("modernbert"),
    _alone("t5"),
    _with_run("t5"),
    _alone("bart"),
    Healthy("text_jepa, cosine head", lambda: ours("text_jepa")),
    Healthy("text_jepa, softmax head", lambda: ours("text_jepa", "--head", "softmax")),
    Healthy("text_jepa, moving-average table", lambda: ours("text_jepa", *MOVING_AVERAGE)),
    *(Healthy(f"staged_generator, stage {stage}", lambda stage=stage: generator(stage)) for stage in range(4)),
    Healthy("gpt2, untrained", lambda: fresh("gpt2"), UNTRAINED),
    Healthy("bert, untrained", lambda: fresh("bert"), UNTRAINED),
    Healthy("t5, untrained", lambda: fresh("t5"), UNTRAINED),
)

# Architectures that no check was calibrated on.
STRANGERS = tuple(
    _alone(name)
    for name in ("mamba", "qwen3", "gemma2", "falcon", "distilbert", "deberta", "pegasus", "t5_classifier")
)


def pretrained(folder: Path) -> Healthy:
    """Published weights, such as those of stories260K, on the built-in text."""

    def opened() -> Case:
        model, tokenizer, found = open_checkpoint(str(folder))
        if found:
            raise RuntimeError(f"{folder} is not whole: {found[0].evidence}")
        return Case(model, tokenizer, {"all": data()["valid"]})

    return Healthy(folder.name, opened)
