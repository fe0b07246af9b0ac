"""Plan a run before it, or judge one: sizes against data, parameters, memory and time on this machine.

    python -m training.plan --data builtin:sotu
    python -m training.plan training/recipes/text_jepa/quickstart.yaml --max_steps 5000

Without a recipe it suggests width, depth, heads, vocabulary, steps and batch, except what flags fix; with one it
judges what stands there. Memory and time are measured on a few steps of the run itself. Nothing is written.
"""

import shlex
import sys
from typing import TYPE_CHECKING

from eval.rules import (
    Shape,
    Verdict,
    suggest_shape,
    suggest_steps,
    suggest_vocabulary_and_batch,
)
from training.common.errors import InputError
from training.data.settings import TRAINED_TOKENIZERS
from training.run.arguments import parse_arguments
from training.run.run import NO_RECIPE, Run

if TYPE_CHECKING:
    from training.data.prepared import Prepared
    from training.estimate import RunEstimate
    from training.family import Family

_PURPOSE = "Plan a run before it, or judge a recipe: sizes against data, parameters, memory and time."
_SHAPE = ("hidden_size", "num_hidden_layers", "num_attention_heads")
_OF_THE_SOURCE = ("split", "text_column", "prompt_column", "reply_column", "max_rows")
_TRAINING = ("max_steps", "per_device_train_batch_size")
_OF_A_STREAM = (
    "            that is the sample of the stream; its whole size is not known, so size and steps are not judged"
)
_MARKS = {"ok": "fits        ", "note": "note        ", "warning": "warning     ", "loud": "!! WARNING  "}


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, or 2 for bad input."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        run = parse_arguments(argv, needs_recipe=False, program="python -m training.plan", purpose=_PURPOSE)
        print("\n".join(plan(run, given=_flags(argv))))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    return 0


def plan(run: Run, given: set[str]) -> list[str]:
    """The plan as lines. Of a run without a recipe, all that is not in `given` is suggested. Raises `InputError`."""
    from training.estimate import estimate_run, fixed_bytes
    from training.families import load_family
    from training.run.examples import batch_note, count_examples
    from training.runtime.memory import held_bytes, naming_what_to_try
    from training.runtime.outputs import show_notes
    from training.trainer.build import build_config, build_model, check_device, prepare_data

    show_notes()
    check_device(run)
    family = load_family(run.family)
    run = family.with_files(run)
    libraries = held_bytes()
    prepared = prepare_data(run, family)
    lines = []
    if run.recipe_path == NO_RECIPE:
        if run.data.tokenizer in TRAINED_TOKENIZERS and "max_vocab" not in given:
            run = run.with_settings(data={"max_vocab": suggest_vocabulary_and_batch(count_examples(prepared))[0]})
            prepared = prepare_data(run, family)  # what is known decides what counts
        run = suggest(run, family, prepared, given)
        lines = suggestion_lines(run)
    model = build_model(run, family, build_config(run, family, prepared), prepared)
    with naming_what_to_try(run, fixed_bytes(model)):
        estimate = estimate_run(run, family, prepared, model, libraries)
    lines += plan_lines(run, family, prepared, estimate, judge(run, family, prepared, estimate))
    said = batch_note(run, model.config.of_the_batch, num_processes=1)
    return [*lines, f"{_MARKS['note']}{said}"] if said else lines


def suggest(run: Run, family: "Family", prepared: "Prepared", given: set[str]) -> Run:
    """`run` with shape, batch and steps that suit its data, where flags do not fix them."""
    from training.run.examples import count_examples, holes_per_row, mean_length

    examples = count_examples(prepared)
    if not given & set(_SHAPE):
        vocabulary = len(prepared.tokenizer)
        shape = suggest_shape(examples, lambda shape: _parameters_of(shape, run, family, vocabulary))
        run = run.with_settings(model=vars(shape))
    training = {name: getattr(run.training, name) for name in _TRAINING if name in given}
    batch = suggest_vocabulary_and_batch(examples)[1]
    training.setdefault("per_device_train_batch_size", min(batch, len(prepared.train)))
    holes = holes_per_row(run.masking, mean_length(prepared))
    batch = training["per_device_train_batch_size"] * run.training.gradient_accumulation_steps
    training.setdefault("max_steps", suggest_steps(examples, batch, holes))
    return run.with_settings(training=training)


def suggestion_lines(run: Run) -> list[str]:
    """The suggestion in words, and as flags that can be copied."""
    chosen = {name: run.model[name] for name in _SHAPE if name in run.model}
    chosen |= {name: getattr(run.training, name) for name in _TRAINING}
    if run.data.tokenizer in TRAINED_TOKENIZERS:
        chosen["max_vocab"] = run.data.max_vocab
    words = {"hidden_size": "width", "num_hidden_layers": "depth", "num_attention_heads": "heads"}
    words |= {"max_steps": "steps", "per_device_train_batch_size": "batch", "max_vocab": "vocabulary up to"}
    said = ", ".join(f"{words[name]} {value:,}" for name, value in chosen.items())
    flags = " ".join(f"--{name} {value}" for name, value in chosen.items())
    return [f"suggested   {said}", f"as flags    {_source_flags(run)} {flags}"]


def _source_flags(run: Run) -> str:
    """What says which rows of the source are read."""
    asked = {name: getattr(run.data, name, None) for name in ("data", *_OF_THE_SOURCE)}
    return " ".join(f"--{name} {shlex.quote(str(value))}" for name, value in asked.items() if value is not None)


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


def _parameters_of(shape: Shape, run: Run, family: "Family", vocabulary: int) -> int:
    """Trainable parameters of a model of this shape, counted on one that takes no memory."""
    import torch

    from training.estimate import count_parameters

    fields = {**run.config_fields, **vars(shape), "vocab_size": vocabulary}
    with torch.device("meta"):
        return count_parameters(family.model_class(family.config_class(**fields)))[0]


def _flags(argv: list[str]) -> set[str]:
    return {argument[2:].split("=")[0] for argument in argv if argument.startswith("--")}


if __name__ == "__main__":
    sys.exit(main())
