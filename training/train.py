"""Train a model from a recipe: parse, build, train, score, save.

    python training/train.py training/recipes/text_jepa/quickstart.yaml --max_steps 500 --output_dir outputs/try
    accelerate launch training/train.py training/recipes/text_jepa/quickstart.yaml

Run it again after whatever stopped it, and it goes on where it was. Exit codes: 0 done, 1 not published, 2 bad input,
3 a number that is not finite, 4 no whole checkpoint, 75 saved after a signal, 130 and 143 ended at once by SIGINT and
SIGTERM.
"""

import sys
from contextlib import ExitStack
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

# Nothing that takes long: what is interrupted before `main` ends with a traceback.
from training.runtime.outputs import lasting_outputs, show_notes
from training.runtime.signals import SignalWatch, StoppedBySignal, Terminated, find_launcher, sigterm_raises

if TYPE_CHECKING:
    from pathlib import Path

    from training.run.run import Run


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code. The last line printed says how it ended."""
    with lasting_outputs():
        try:
            with sigterm_raises():
                return _main(sys.argv[1:] if argv is None else argv)
        except (KeyboardInterrupt, Terminated) as ended:
            print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr, flush=True)
            return 143 if isinstance(ended, Terminated) else 130


def _main(argv: list[str]) -> int:
    launcher = find_launcher()
    from training.common.errors import InputError
    from training.run.arguments import parse_arguments

    try:
        run = parse_arguments(argv)
    except InputError as error:
        return _failed(error, 2)
    # Only now: these imports take seconds, and a typo should not.
    from training.common.errors import NonFiniteError
    from training.publish.faults import HubError
    from training.run_folder.checkpoints import NoWholeCheckpointError
    from training.runtime.processes import FirstProcessError, leave_processes

    codes: dict[type[Exception], int] = {HubError: 1, InputError: 2, NonFiniteError: 3, NoWholeCheckpointError: 4}
    try:
        return train(run, launcher)
    except tuple(codes) as error:
        return _failed(error, _code(error, codes))
    except FirstProcessError as error:  # it said why
        return _code(error.reason, {**codes, OSError: 2})
    except OSError as error:
        return _failed(_naming_its_file(error, run.output_dir), 2)
    finally:
        leave_processes()


def train(run: "Run", launcher: int | None = None) -> int:
    """Train, or go on with, one run; returns 0, or 75 when a signal ended it after a save.

    Args:
        launcher: the process whose death is taken for a signal, if there is one.

    Raises:
        HubError, InputError, NonFiniteError, NoWholeCheckpointError: see `main`.
    """
    from training.cards.record import sizes_of
    from training.families import load_family
    from training.run.examples import batch_note
    from training.run_folder.claim import describe_run, locked
    from training.runtime.memory import held_bytes
    from training.runtime.processes import cpu_threads, first_then_others, missing_processes, once, start_processes
    from training.trainer.build import (
        build_config,
        build_model,
        check_device,
        check_trackers,
        prepare_data,
        with_steps,
    )

    check_device(run)
    check_trackers(run)
    family = load_family(run.family)
    run = family.with_files(run)
    processes = start_processes(run)
    show_notes(processes.is_main_process)
    if missing := missing_processes(processes):
        print(f"note: {missing}", file=sys.stderr, flush=True)
    if run.push_to_hub and not run.dry_run:
        once(processes, lambda: _check_access(run))
    libraries = held_bytes()
    with ExitStack() as held:
        if not run.dry_run:
            once(processes, lambda: held.enter_context(locked(run.output_dir)))
        prepared = first_then_others(processes, lambda: prepare_data(run, family))
        run = with_steps(run, prepared, processes.num_processes)
        if run.own_source and run.evaluation.own_samples:
            run = run.with_settings(evaluation={"sample_phrases": family.own_phrases(prepared)})
        config = build_config(run, family, prepared)
        model = build_model(run, family, config, prepared)
        if processes.is_main_process and (said := batch_note(run, config.of_the_batch, processes.num_processes)):
            print(f"note: {said}", file=sys.stderr, flush=True)
        if run.dry_run:
            return _dry_run(run, family, prepared, model, libraries)
        threads = cpu_threads(processes)
        notes = prepared.reports["train"]["rows"]["notes"]
        read = [
            note.replace(run.data.data, PurePath(run.data.data).name) for note in notes
        ]  # no place of this machine
        description = describe_run(run, config, prepared.data_hash, processes.num_processes, threads, read)
        resumable = once(processes, lambda: _claim_folder(run, description))
        with SignalWatch(launcher) as watch:
            return _train_and_finish(run, family, prepared, model, resumable, sizes_of(model), watch)


def _claim_folder(run: "Run", description: dict[str, Any]) -> Any:
    """Where the run goes on, said where it is not as expected; the folder is this run's from here on."""
    from training.optim.schedule import extension_note
    from training.run_folder.claim import decide_resume, rounding_changes, write_run
    from training.run_folder.ownership import own_run

    resumable = decide_resume(run, description)
    for problem in resumable.damaged.values():
        print(f"skipped: {problem}", file=sys.stderr)
    if resumable.path and (changes := rounding_changes(resumable.path, description)):
        print(f"note: {'; '.join(changes)}: the resumed run is not bitwise that of before", file=sys.stderr)
    earlier = own_run(run.output_dir)
    if run.extend and resumable.path and earlier:
        steps = earlier["recipe"]["training"]["max_steps"]
        if said := extension_note(run.training, steps, resumable.step):
            print(f"note: {said}", file=sys.stderr)
    write_run(run.output_dir, description)
    return resumable


def _check_access(run: "Run") -> None:
    from training.publish.sending import check_access

    check_access(run.hub_model_id)


def _publish(run: "Run") -> None:
    """Send the best checkpoint, where that was asked for; what is there already is not sent again."""
    from training.publish.publication import prepare
    from training.publish.sending import publish

    if run.push_to_hub:
        print(publish(prepare(run.output_dir, run.hub_model_id), run.hub_private).line(None))


def _train_and_finish(
    run: "Run",
    family: Any,
    prepared: Any,
    model: Any,
    resumable: Any,
    facts: dict[str, Any],
    watch: SignalWatch,
) -> int:
    from accelerate import PartialState

    from training.estimate import fixed_bytes
    from training.finish import finish, is_finished, is_over, show_score
    from training.init_from.growing import measure_growth
    from training.run.state import RunState
    from training.runtime.memory import naming_what_to_try
    from training.trainer.build import build_trainer

    say = PartialState().on_main_process(print)
    if is_finished(run, resumable):
        if PartialState().is_main_process:
            show_score(run.output_dir)
        say(f"done: {run.output_dir} is finished; --resume never starts over, --extend with more max_steps goes on")
        if PartialState().is_main_process:
            _publish(run)
        return 0
    run_state = RunState()
    if run.init_from is not None and run.stage is not None and resumable.path is None:
        growth = measure_growth(run, family, prepared, model)
        run_state.growth = growth.to_dict()
        say(growth.line())
    if not is_over(run, resumable):
        trainer = build_trainer(run, family, prepared, model, run_state, watch)
        trainer.args.eval_on_start &= resumable.path is None
        with naming_what_to_try(run, fixed_bytes(model)):
            trainer.train(resume_from_checkpoint=str(resumable.path) if resumable.path else None)
        if watch.stopped:
            say(f"stopped by {watch.reason or 'a signal'} at step {trainer.state.global_step:,}, saved; "
                "the same command goes on")  # fmt: skip
            return 75
    else:
        run_state.restore(resumable.path)
    if not PartialState().is_main_process:
        return 0
    watch.at_once = True
    try:
        if watch.told_to_stop():  # the last step was done when it came
            raise StoppedBySignal
        finish(run, run_state, facts, prepared)
        print(f"done: {run.output_dir} holds the best checkpoint, its score and its card")
        _publish(run)
    except StoppedBySignal:
        print(f"stopped by {watch.reason} after the last step, saved; the same command finishes the run")
        return 75
    return 0


def _dry_run(run: "Run", family: Any, prepared: Any, model: Any, libraries: int) -> int:
    from accelerate import PartialState

    from training.estimate import estimate_run, fixed_bytes
    from training.plan import judge, plan_lines
    from training.runtime.memory import naming_what_to_try

    say = PartialState().on_main_process(print)
    with naming_what_to_try(run, fixed_bytes(model)):
        estimate = estimate_run(run, family, prepared, model, libraries)
    verdicts = judge(run, family, prepared, estimate)
    say("\n".join(plan_lines(run, family, prepared, estimate, verdicts)))
    for row in family.example_rows(prepared):
        say(f"row         {row}")
    say(f"dry run: nothing was written to {run.output_dir}")
    return 0


def _code(error: Exception, codes: dict[type[Exception], int]) -> int:
    return next((code for kind, code in codes.items() if isinstance(error, kind)), 1)


def _naming_its_file(error: OSError, run_dir: "Path") -> Exception:
    """What the system says, in one line; it names no file where it failed at one that was open."""
    from training.run_folder.checkpoints import FULL

    if error.strerror is None:  # a library's own words
        return error
    remedy = "; free some space and run the same command again (what was saved is whole)"
    return Exception(f"{error.filename or run_dir}: {error.strerror}{remedy if error.errno in FULL else ''}")


def _failed(error: Exception, code: int) -> int:
    print(f"error: {' '.join(str(error).splitlines())}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
