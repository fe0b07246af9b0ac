"""What the commands of `eval` share: one way to fail, the same exit codes, the same flags for the same thing."""

import argparse
import sys
from collections.abc import Callable, Sequence

from training.common.errors import InputError, NonFiniteError


def run_command(
    parser: argparse.ArgumentParser,
    work: Callable[[argparse.Namespace], int | None],
    argv: Sequence[str] | None = None,
) -> int:
    """Parse, work, and return the exit code: what `work` returns (None is 0), 2 for bad input, 3 for NaN.

    An error is one line on stderr.
    """
    arguments = parser.parse_args(argv)
    from eval.loading import quiet_libraries  # and with it torch: not for --help, nor for a wrong flag

    quiet_libraries()
    try:
        return work(arguments) or 0
    except (InputError, NonFiniteError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 3 if isinstance(error, NonFiniteError) else 2


def new_parser(command: str, doc: str | None) -> argparse.ArgumentParser:
    """The parser of `python -m COMMAND`, described by the first line of its module's text."""
    return argparse.ArgumentParser(prog=f"python -m {command}", description=(doc or "").splitlines()[0])


def add_checkpoint(parser: argparse.ArgumentParser, what: str = "model") -> None:
    """The checkpoint to open, and the device it is put on."""
    parser.add_argument("checkpoint", help=f"folder of a trained {what}, or its repository id")
    parser.add_argument("--device", help="cpu, cuda, ... (default: a GPU where there is one)")
