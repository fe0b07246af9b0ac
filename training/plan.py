"""Plan a run before it, or judge one: sizes against data, parameters, memory and time on this machine.

    python -m training.plan --data builtin:sotu
    python -m training.plan --clips PATH/TO/gifs --minutes 20
    python -m training.plan training/recipes/text_jepa/quickstart.yaml --max_steps 5000

Without a recipe it takes the quickstart of the family that knows the flags (or of `--family`), and suggests width,
depth, heads, vocabulary and steps, except what flags fix; with `--minutes` size and steps that fit into that time.
With a recipe alone it judges what stands there. Memory and time are measured on a few steps of the run itself. Nothing
is written.
"""

import argparse
import math
import os
import shlex
import sys
import time
from collections.abc import Callable, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from eval.rules import SHAPES, TOKENS_PER_PARAMETER, Shape, Verdict, suggest_shape, suggest_vocabulary
from training.common.errors import InputError
from training.common.wording import duration
from training.data.settings import TRAINED_TOKENIZERS
from training.run.arguments import StrictParser, find_recipe, keys_of_family, parse_arguments
from training.run.run import Run
from training.settings.recipes import DEFAULT_FAMILY, family_names

if TYPE_CHECKING:
    from training.data.prepared import Prepared
    from training.estimate import RunEstimate
    from training.family import Family

_PURPOSE = (
    "Plan a run before it, or judge a recipe: sizes against data, parameters, memory and time. --minutes N: size and "
    "steps that fit into N minutes here. --family NAME: whose quickstart is planned where no recipe is given."
)
_SHAPE = ("hidden_size", "num_hidden_layers", "num_attention_heads")
_OF_A_STREAM = (
    "            that is the sample of the stream; its whole size is not known, so size and steps are not judged"
)
_MARKS = {"ok": "fits        ", "note": "note        ", "warning": "warning     ", "loud": "!! WARNING  "}
_MOST_STEPS = 1_000_000  # of a stream, whose size is not known
_PLANNED = 0.9  # of the minutes: saving, and steps that are slower than the measured ones, take the rest
_WORDS = {
    "hidden_size": "width",
    "num_hidden_layers": "depth",
    "num_attention_heads": "heads",
    "max_steps": "steps",
    "per_device_train_batch_size": "batch",
    "max_vocab": "vocabulary up to",
}


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, or 2 for bad input."""
    try:
        own, argv = _own_flags().parse_known_args(sys.argv[1:] if argv is None else argv)
        if own.minutes is not None and not 0 < own.minutes < math.inf:
            raise InputError(f"minutes: got {own.minutes}; use a number above 0")
        given = {argument[2:].split("=")[0] for argument in argv if argument.startswith("--")}
        is_judged = find_recipe(argv) is not None
        if not is_judged:
            argv = [os.path.relpath(_quickstart(own.family or _family_that_knows(given))), *argv]
        run = parse_arguments(argv, program="python -m training.plan", purpose=_PURPOSE)
        if is_judged and own.minutes is None:
            print("\n".join(plan(run)))
        else:
            print("\n".join(plan(run, Wishes(argv, frozenset(given), own.minutes))))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    return 0


@dataclass(frozen=True)
class Wishes:
    """What a suggestion keeps to.

    Attributes:
        argv: the command line, recipe first.
        given: names of its flags, which are kept.
        minutes: that the run may take; None for any time.
    """

    argv: list[str]
    given: frozenset[str]
    minutes: float | None = None


def plan(run: Run, wishes: Wishes | None = None, clock: Callable[[], float] = time.perf_counter) -> list[str]:
    """The plan as lines; with wishes, of a run that is suggested.

    Args:
        clock: gives seconds.

    Raises:
        InputError: data that cannot be read; a time in which no step fits.
    """
    started = clock()
    from training.estimate import estimate_run, fixed_bytes
    from training.families import load_family
    from training.run.examples import batch_note, count_examples
    from training.runtime.memory import held_bytes, naming_what_to_try
    from training.runtime.outputs import show_notes
    from training.trainer.build import build_config, build_model, check_device, prepare_data, with_steps

    show_notes()
    check_device(run)
    family = load_family(run.family)
    loading = clock() - started  # of the libraries, which a run has to do too
    run = family.with_files(run)
    libraries = held_bytes()
    prepared = prepare_data(run, family)
    run = with_steps(run, prepared)

    def measured(run: Run) -> "RunEstimate":
        model = build_model(run, family, build_config(run, family, prepared), prepared)
        with naming_what_to_try(run, fixed_bytes(model)):
            return estimate_run(run, family, prepared, model, libraries, clock)

    lines: list[str] = []
    estimate = None
    if wishes is not None:
        if run.data.tokenizer in TRAINED_TOKENIZERS and "max_vocab" not in wishes.given and run.init_from is None:
            run = run.with_settings(data={"max_vocab": suggest_vocabulary(count_examples(prepared))})
            prepared = prepare_data(run, family)  # what is known decides what counts
        seconds = None if wishes.minutes is None else _PLANNED * 60 * wishes.minutes - loading
        given = wishes.given | ({"max_steps"} if run.training.num_train_epochs is not None else set())
        run, estimate = suggest(run, family, prepared, given, seconds, measured)
        lines = suggestion_lines(run, wishes)
    estimate = estimate or measured(run)
    lines += plan_lines(run, family, prepared, estimate, judge(run, family, prepared, estimate))
    said = batch_note(run, build_config(run, family, prepared).of_the_batch, num_processes=1)
    return [*lines, f"{_MARKS['note']}{said}"] if said else lines


def suggest(
    run: Run,
    family: "Family",
    prepared: "Prepared",
    given: Set[str],
    seconds: float | None,
    measured: Callable[[Run], "RunEstimate"],
) -> tuple[Run, "RunEstimate"]:
    """`run` with shape, batch and steps that suit its data, where the flags in `given` do not fix them.

    In so many seconds: the largest shape that suits the data and has time to see as many tokens as the data has for
    it, or as its parameters ask for; the smallest one where there is no such.
    """
    if "per_device_train_batch_size" not in given:
        batch = min(run.training.per_device_train_batch_size, len(prepared.train))
        run = run.with_settings(training={"per_device_train_batch_size": batch})
    shapes: list[Shape | None] = [None]
    if not given & set(_SHAPE) and run.init_from is None:
        suits = suggest_shape(family.suits(prepared), lambda shape: _parameters_of(shape, run, family, prepared))
        shapes = list(reversed(SHAPES[: SHAPES.index(suits) + 1]))
    rows = run.training.per_device_train_batch_size * run.training.gradient_accumulation_steps
    wanted = max(1, math.ceil(family.rows_wanted(run, prepared) / rows))
    for shape in shapes:
        tried = run if shape is None else run.with_settings(model=vars(shape))
        if "max_steps" not in given:
            tried = tried.with_settings(training={"max_steps": wanted})
        estimate = measured(tried)
        if seconds is None or "max_steps" in given:
            return tried, estimate
        steps = estimate.steps_within(seconds, _MOST_STEPS if run.data.streaming else wanted)
        enough = min(wanted, TOKENS_PER_PARAMETER * estimate.trainable / estimate.tokens_per_step)
        if steps >= enough:
            break
    if not steps:
        least, left = duration(estimate.at(1).seconds), duration(max(0.0, seconds))
        raise InputError(f"minutes: {left} are left once all is loaded; one step and its scores take {least} here")
    return tried.with_settings(training={"max_steps": steps}), estimate.at(steps)


def suggestion_lines(run: Run, wishes: Wishes) -> list[str]:
    """The suggestion in words, and as a command that can be copied."""
    chosen = {name: run.model[name] for name in _SHAPE if name in run.model}
    chosen |= {name: getattr(run.training, name) for name in ("max_steps", "per_device_train_batch_size")}
    if run.data.tokenizer in TRAINED_TOKENIZERS:
        chosen["max_vocab"] = run.data.max_vocab
    said = ", ".join(f"{_WORDS[name]} {value:,}" for name, value in chosen.items())
    flags = [part for name, value in chosen.items() if name not in wishes.given for part in (f"--{name}", str(value))]
    return [f"suggested   {said}", f"command     python training/train.py {shlex.join([*wishes.argv, *flags])}"]


def judge(run: Run, family: "Family", prepared: "Prepared", estimate: "RunEstimate") -> list[Verdict]:
    """Size and steps against the data; nothing of a stream, of which only a sample is known."""
    return [] if run.data.streaming else family.judge(run, prepared, estimate.trainable, estimate.rows_per_step)


def plan_lines(
    run: Run, family: "Family", prepared: "Prepared", estimate: "RunEstimate", verdicts: list[Verdict]
) -> list[str]:
    """Data, estimate and verdicts for the screen."""
    lines = [f"data        {family.describe_data(prepared)}", *estimate.lines()]
    if run.data.streaming:
        return [lines[0], _OF_A_STREAM, *lines[1:]]
    passes = family.passes_line(run, prepared, estimate.rows_per_step)
    return [*lines, passes, *(f"{_MARKS[verdict.level]}{verdict.message}" for verdict in verdicts)]


def _parameters_of(shape: Shape, run: Run, family: "Family", prepared: "Prepared") -> int:
    """Trainable parameters of a model of this shape, counted on one that takes no memory."""
    import torch

    from training.estimate import count_parameters
    from training.trainer.build import build_config

    config = build_config(run.with_settings(model=vars(shape)), family, prepared)
    with torch.device("meta"):
        return count_parameters(family.model_class(config))[0]


def _own_flags() -> argparse.ArgumentParser:
    """Those that training does not have."""
    parser = StrictParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--family", choices=[family for family in family_names() if _quickstart(family).exists()])
    return parser


def _quickstart(family: str) -> Path:
    return Path(__file__).parent / "recipes" / family / "quickstart.yaml"


def _family_that_knows(flags: set[str]) -> str:
    """The first family with a quickstart of whose keys most are; a flag that is none is named when it is parsed."""
    families = [family for family in family_names() if _quickstart(family).exists()]
    return max(families, key=lambda family: (len(flags & set(keys_of_family(family))), family == DEFAULT_FAMILY))


if __name__ == "__main__":
    sys.exit(main())
