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

import huggingface_hub

from eval.loading import quiet_libraries
from training.common.addresses import checked_repo_id, checked_tag
from training.common.errors import InputError
from training.publish.faults import HubError, require_token
from training.publish.publication import prepare
from training.publish.sending import listing, publish


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    arguments = _parser().parse_args(argv)
    quiet_libraries()
    huggingface_hub.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        huggingface_hub.utils.disable_progress_bars()
    try:
        repo_id = checked_repo_id(arguments.repository, "repository")
        if arguments.tag is not None:
            checked_tag(arguments.tag)
        if not arguments.dry_run:
            require_token()
        publication = prepare(arguments.checkpoint, repo_id)
        print("\n".join(listing(publication, arguments.private, arguments.tag)))
        if arguments.dry_run:
            print(f"\n{publication.card}\ndry run: nothing was sent")
            return 0
        print(publish(publication, arguments.private, arguments.tag).line(arguments.tag))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except HubError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.publish", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="folder of a finished run, or a checkpoint with its card")
    parser.add_argument("repository", help="where to: OWNER/NAME; it is made where it is not there")
    parser.add_argument("--private", action="store_true", help="a new repository is seen by its owner only")
    parser.add_argument("--tag", help="a name for this state, by which it can be loaded: revision=TAG")
    parser.add_argument("--dry_run", action="store_true", help="show files, sizes and the card, and end")
    return parser


if __name__ == "__main__":
    sys.exit(main())
