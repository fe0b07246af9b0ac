"""Build the index of replies of a dialogue checkpoint: `python -m eval.retrieval CHECKPOINT`."""

import argparse
import sys
from collections.abc import Iterator, Sequence

from eval.command import run_command
from eval.replies.index import ReplyIndex
from eval.replies.saying import open_dialogue
from eval.scorers.checkpoint import choose_split, data_settings
from eval.scorers.request import ScoreRequest
from training.data.dialogue_jepa.dialogues import load_dialogues, pairs_of
from training.data.settings import DialogueDataSettings


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: build a checkpoint's index anew; returns the exit code: 0, 2 for bad input, 3 for NaN."""
    return run_command(_parser(), _build, argv)


def _build(arguments: argparse.Namespace) -> None:
    model, tokenizer = open_dialogue(arguments.checkpoint, arguments.device)
    replies = _replies(ScoreRequest(arguments.checkpoint, arguments.data))
    index = ReplyIndex.build(model, tokenizer, replies, progress=sys.stderr.isatty())
    folder = index.save(arguments.checkpoint)
    print(f"{len(index):,} different replies in {folder}")


def _replies(request: ScoreRequest) -> Iterator[str]:
    """Those of the source's training part; of another single file than the run's own, all of them."""
    settings: DialogueDataSettings = data_settings(request)
    split = "train" if choose_split(request, settings) == "test" else "all"
    return (pair.reply for pair in pairs_of(load_dialogues(settings, split), settings))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval.retrieval", description="Build the index of replies of a dialogue checkpoint."
    )
    parser.add_argument("checkpoint", help="folder of a trained dialogue model")
    parser.add_argument("--data", help="source whose training part holds the replies (default: the run's own)")
    parser.add_argument("--device", help="cpu, cuda, ... (default: a GPU where there is one)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
