"""Publish a checkpoint: everything that opens it anywhere, in one commit.

    python -m training.publish outputs/quickstart me/sotu-text-jepa --private --tag v1 --dry_run
    python -m training.publish outputs/quickstart me/sotu-text-jepa --private --tag v1

`--dry_run` shows what would be sent, and the card; it needs neither token nor network. Run it again after whatever
stopped it: what is there already is not sent twice. Exit codes: 0 published (or there already), 1 the Hub did not take
it, 2 bad input, 130 interrupted.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from eval.command import new_parser
from training.common.addresses import checked_repo_id, checked_tag
from training.publish.faults import require_token, run_hub_command
from training.publish.publication import prepare
from training.publish.sending import listing, publish


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    return run_hub_command(_parser(), _publish, argv)


def _publish(arguments: argparse.Namespace) -> None:
    repo_id = checked_repo_id(arguments.repository, "repository")
    if arguments.tag is not None:
        checked_tag(arguments.tag)
    if not arguments.dry_run:
        require_token()
    publication = prepare(arguments.checkpoint, repo_id)
    print("\n".join(listing(publication, arguments.private, arguments.tag)))
    if arguments.dry_run:
        print(f"\n{publication.card}\ndry run: nothing was sent")
        return
    print(publish(publication, arguments.private, arguments.tag).line(arguments.tag))


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("training.publish", __doc__)
    parser.add_argument("checkpoint", type=Path, help="folder of a finished run, or a checkpoint with its card")
    parser.add_argument("repository", help="where to: OWNER/NAME; it is made where it is not there")
    parser.add_argument("--private", action="store_true", help="a new repository is seen by its owner only")
    parser.add_argument("--tag", help="a name for this state, by which it can be loaded: revision=TAG")
    parser.add_argument("--dry_run", action="store_true", help="show files, sizes and the card, and end")
    return parser


if __name__ == "__main__":
    sys.exit(main())
