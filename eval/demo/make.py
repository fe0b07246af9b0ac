"""The page for a list of checkpoints."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from eval.demo.tabs import open_tab
from training.common.errors import InputError


def make_page(checkpoints: Sequence[str], device: str | None = None, clips: str | None = None) -> Any:
    """The page (a `gradio.Blocks`) for checkpoints, each a folder or a repository id. `.launch()` serves it.

    Args:
        clips: what video models are shown with; None for what they were trained on.

    Raises:
        InputError: no Gradio, no checkpoint there, or one that no tab can show.
    """
    if find_spec("gradio") is None:
        raise InputError("the demo needs gradio, which is not installed: pip install 'jepa-lm[demo]'")
    tabs = [(_shown(name), open_tab(name, device, clips)) for name in checkpoints]
    from eval.demo.page import build_page  # and with it Gradio, which takes seconds

    return build_page(tabs)


def _shown(checkpoint: str) -> str:
    """A folder by its last name: a page tells nothing of the machine it is made on."""
    return checkpoint.rstrip("/").split("/")[-1] if checkpoint.count("/") != 1 else checkpoint
