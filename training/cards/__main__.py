"""Model cards, from measured JSON by their family's template: no number in one is typed by hand.

python -m training.cards                          render the cards of our reference models, model_cards/*.md, anew
python -m training.cards --check                  say whether they are what their JSON gives
python -m training.cards outputs/quickstart       render the card of a finished run anew, from its results/
python -m training.cards outputs/quickstart --keep quickstart      make it one of the reference models
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from eval.command import new_parser, run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code: 0, 1 where `--check` finds a difference, 2 for bad input."""
    return run_command(_parser(), _render, argv)


def _render(arguments: argparse.Namespace) -> int:
    from training.cards import writing  # and with it every library that trains

    if arguments.run is not None:
        run_dir = Path(arguments.run)
        keep, source = arguments.keep, arguments.source
        print(writing.render_run(run_dir) if keep is None else writing.keep_run(run_dir, keep, source))
        return 0
    changed = writing.render_references(only_look=arguments.check)
    for path in changed:
        print(f"{'differs from its JSON' if arguments.check else 'rendered'}: {path}")
    return 1 if arguments.check and changed else 0


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("training.cards", __doc__)
    parser.add_argument("run", nargs="?", help="folder of a finished run (default: our reference models)")
    parser.add_argument("--check", action="store_true", help="render nothing, and end with 1 where a card differs")
    parser.add_argument("--keep", metavar="NAME", help="keep the run's record among those of our reference models")
    parser.add_argument("--source", help="what the run's data is a copy of, such as hub:dailydialog, for its licence")
    return parser


if __name__ == "__main__":
    sys.exit(main())
