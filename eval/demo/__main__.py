"""A page in the browser to try trained models: fill a blank, generate, chat, predict video; a tab a checkpoint.

    python -m eval.demo outputs/quickstart outputs/dialogue_jepa-quickstart
    python -m eval.demo user/sotu-text-jepa --port 8080
    python -m eval.demo outputs/video --clips PATH/TO/gifs
    python -m eval.demo user/sotu-text-jepa --space PATH/TO/space

With `--space` no page is opened: a folder is written that can be pushed as a Space of the Hub. Needs the extra `demo`.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from eval.command import new_parser, run_command
from eval.demo.make import make_page
from eval.demo.space import write_space
from training.common.errors import InputError

PORT = 7860


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code: 0, 2 for bad input."""
    return run_command(_parser(), _show, argv)


def _show(arguments: argparse.Namespace) -> None:
    if arguments.space is not None:
        written = write_space(arguments.space, arguments.checkpoints)
        print(f"written: {written}; push it as it is, or try it: cd {written} && python app.py")
        return
    _serve(make_page(arguments.checkpoints, arguments.device, arguments.clips), arguments)


def _serve(page: Any, arguments: argparse.Namespace) -> None:
    from eval.demo.page import THEME

    try:
        page.launch(
            server_name=arguments.host,
            server_port=arguments.port,
            share=arguments.share,
            theme=THEME,
            ssr_mode=False,
            quiet=False,
        )
    except OSError as error:
        raise InputError(f"port: {' '.join(str(error).split())}; give another --port") from error


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("eval.demo", __doc__)
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help="folder of a model, or its repository id")
    parser.add_argument("--clips", help="a folder of GIFs, a .npy, or digits that video models are shown with")
    parser.add_argument("--port", type=int, default=PORT, help=f"to listen at (default: {PORT})")
    parser.add_argument("--host", default="127.0.0.1", help="to listen at; 0.0.0.0 for every address of this machine")
    parser.add_argument("--share", action="store_true", help="a public link through Gradio's servers (default: no)")
    parser.add_argument("--space", metavar="FOLDER", help="write a Space of the Hub into this new folder, and end")
    parser.add_argument("--device", help="cpu, cuda, ... (default: a GPU where there is one)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
