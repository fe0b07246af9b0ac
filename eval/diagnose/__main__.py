"""Say what is wrong with a language model, or a video model of this package, and prove it.

    python -m eval.diagnose outputs/staged-3 --data builtin:sotu --json report.json --html report.html
    python -m eval.diagnose openai-community/gpt2 --only leak parity
    python -m eval.diagnose outputs/video --clips PATH/TO/gifs
    python -m eval.diagnose outputs/second --against outputs/first

With `--against` two runs are compared: what differs in them, and where their curves part. The folder of a run brings
its log and its text along. Exit codes: 0 nothing is wrong, or differs; 1 something is, or does; 2 it could not be
examined.
"""

import argparse
import math
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console

from eval.diagnose.checks import GROUPS
from eval.diagnose.report.report import Report
from training.common.errors import InputError
from training.common.records import check_target, plain, write_json, write_text

if TYPE_CHECKING:
    from eval.diagnose.examine import Progress

_REPEATED = ("data", "text_column", "run", "tokenizer", "seed")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    try:
        arguments = _parser().parse_args(argv)
        return _compare(arguments) if arguments.against is not None else _report(arguments)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _report(arguments: argparse.Namespace) -> int:
    """Examine, write, show; only from here on are libraries loaded that take seconds."""
    import torch

    from eval.diagnose.report.html import report_html
    from eval.diagnose.report.text import print_report
    from eval.loading import quiet_libraries

    quiet_libraries()
    try:
        report = _examine(arguments)
    except (MemoryError, torch.cuda.OutOfMemoryError) as error:
        raise InputError(f"out of memory while opening the model: {' '.join(str(error).split())}") from None
    if arguments.json is not None:
        write_json(plain(report.to_dict()), arguments.json)
    if arguments.html is not None:
        write_text(report_html(report), arguments.html)
    print_report(report)
    return report.exit_code


def _compare(arguments: argparse.Namespace) -> int:
    """Two runs beside each other; 0 where nothing that they keep differs, 1 where something does."""
    from eval.diagnose.against import compare, print_comparison

    compared = compare(arguments.model, arguments.against)
    if arguments.json is not None:
        write_json(plain(compared.to_dict()), arguments.json)
    print_comparison(compared)
    return int(bool(compared.differences))


def newest_model(name: str) -> str:
    """`name`, or, for the folder of a run that holds its models in `checkpoint-N` alone, the newest of them."""
    folder = Path(name)
    if not folder.is_dir() or (folder / "config.json").is_file():
        return name
    steps = {
        int(path.parent.name.removeprefix("checkpoint-")): path.parent
        for path in folder.glob("checkpoint-*/config.json")
        if path.parent.name.removeprefix("checkpoint-").isdecimal()
    }
    return str(steps[max(steps)]) if steps else name


def _examine(arguments: argparse.Namespace) -> Report:
    """Everything that can be refused at once is, before anything is opened."""
    from eval.advice.record import is_run
    from eval.diagnose.examine import choose_groups, examine
    from eval.diagnose.opening import make_subject, open_checkpoint
    from eval.diagnose.subject.subject import Limits

    groups = choose_groups(arguments.only, arguments.skip)
    for target in (arguments.json, arguments.html):
        if target is not None:
            check_target(Path(target))
    name = newest_model(arguments.model)
    with _progress(len(groups)) as progress:
        progress("opening the model")
        model, tokenizer, found = open_checkpoint(
            name, arguments.tokenizer, arguments.device, arguments.trust_remote_code
        )
        subject = make_subject(
            model,
            tokenizer,
            arguments.data,
            arguments.run or (arguments.model if is_run(arguments.model) else None),
            limits=Limits(seconds=arguments.seconds),
            name=name,
            text_column=arguments.text_column,
        )
        if name != arguments.model:
            subject.notes.append(f"{arguments.model} holds no model itself: its newest checkpoint was examined")
        subject.turn(arguments.seed)
        report = examine(subject, groups, found, progress)
    report.findings = [replace(one, again=_as_asked(one.again, name, arguments)) for one in report.findings]
    return report


def _as_asked(again: str, name: str, arguments: argparse.Namespace) -> str:
    """The command that shows a finding again, with the flags that decide what is looked at."""
    program = "python -m eval.diagnose"
    given = vars(arguments)
    flags = [part for flag in _REPEATED if given[flag] for part in (f"--{flag}", str(given[flag]))]
    flags += ["--trust_remote_code"] * arguments.trust_remote_code
    return again.replace(f"{program} {name}", f"{program} {shlex.join([arguments.model, *flags])}", 1)


@contextmanager
def _progress(number: int) -> Iterator["Progress"]:
    """On a terminal, one line that says what is looked at; elsewhere nothing."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda group: None
        return
    done = 0
    with console.status("opening") as status:

        def show(group: str) -> None:
            nonlocal done
            done += group in GROUPS
            status.update(f"{group} ({done} of {number})" if group in GROUPS else group)

        yield show


class _Parser(argparse.ArgumentParser):
    """Raises `InputError` where argparse would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; --help lists the flags")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m eval.diagnose",
        description=(__doc__ or "").splitlines()[0],
        epilog="Exit codes: 0 nothing is wrong, 1 something is, 2 it could not be examined.",
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="MODEL", help="folder of a model or of a run, or a repository id")
    parser.add_argument("--data", metavar="SOURCE", help="builtin:NAME, a file, a folder with train.* and valid.*, or "
                        "hub:ID; of a video model digits or clips (default: the run's own, else built-in "
                        "ones)")  # fmt: skip
    parser.add_argument("--clips", "--digits", dest="data", metavar="SOURCE", help="the same, as training names them")
    parser.add_argument("--text_column", metavar="NAME", help="column of the source that holds the text")
    parser.add_argument(
        "--run", metavar="FOLDER", help="its training run, ours or the Trainer's (default: MODEL, where it is one)"
    )
    parser.add_argument("--against", metavar="RUN", help="another run: say what differs from MODEL's, and where their "
                        "curves part")  # fmt: skip
    parser.add_argument("--json", metavar="FILE", help="also write the report to this file")
    parser.add_argument("--html", metavar="FILE", help="also write it as a page with plots, which opens from the disk")
    shown = ", ".join(GROUPS)
    parser.add_argument("--only", nargs="+", default=[], metavar="GROUP", help=f"groups of checks to run: {shown}")
    parser.add_argument("--skip", nargs="+", default=[], metavar="GROUP", help="groups of checks to leave out")
    parser.add_argument("--tokenizer", metavar="PATH", help="folder or repository of the tokenizer (default: MODEL)")
    parser.add_argument("--seconds", type=_positive, default=60.0, metavar="S", help="time it may take (default: 60)")
    parser.add_argument(
        "--seed", type=_seed, default=0, help="decides which passages of the text are used (default: 0)"
    )
    parser.add_argument("--device", help="cpu, cuda, ... (default: a GPU where there is one)")
    parser.add_argument("--trust_remote_code", action="store_true", help="run code that lies beside the weights")
    return parser


def _positive(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"got {text}; use a number above 0")
    return seconds


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"got {text}; use a whole number of at least 0")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
