"""The demo as a Space of the Hub: a folder with `app.py`, what it needs, and a README whose front matter starts it."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub.utils import HFValidationError, validate_repo_id

from training.common.errors import InputError

_ROOT = Path(__file__).resolve().parents[2]
# A Space is a repository of its own: the application goes along, as only the two small packages are in the wheel.
PACKAGES = ("configuration_jepa", "modeling_jepa", "training", "eval")
GRADIO = "6.31.0"
_APP = '''\
"""A page to try {names}. The models are fetched from the Hub when it starts."""

from eval.demo import make_page
from eval.demo.page import THEME

make_page({checkpoints!r}).launch(theme=THEME, ssr_mode=False)
'''
_README = """\
---
title: {title}
sdk: gradio
sdk_version: {gradio}
python_version: "3.11"
app_file: app.py
models: [{models}]
license: apache-2.0
---

Made by `python -m eval.demo {models_typed} --space FOLDER`. To run it here: `pip install -r requirements.txt`, then
`python app.py`.
"""


def write_space(folder: str, repositories: Sequence[str]) -> Path:
    """Write the Space of some models on the Hub into a folder that is new or empty.

    Raises:
        InputError: not the id of a repository, or a folder that holds something.
    """
    for name in repositories:
        _refuse_folder(name)
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"space: {folder} is not empty; give a new folder")
    shown = ", ".join(repositories)
    for package in PACKAGES:
        skipped = shutil.ignore_patterns("__pycache__", "benchmarks")
        shutil.copytree(_ROOT / package, target / package, ignore=skipped)
    shutil.copyfile(_ROOT / "LICENSE", target / "LICENSE")
    texts = {
        "app.py": _APP.format(names=shown, checkpoints=list(repositories)),
        "requirements.txt": "\n".join(requirements()) + "\n",
        "README.md": _README.format(
            title=repositories[0].split("/")[-1], gradio=GRADIO, models=shown, models_typed=" ".join(repositories)
        ),
    }
    for name, text in texts.items():
        (target / name).write_text(text, encoding="utf-8")
    return target


def requirements() -> list[str]:
    """What `eval` and the two packages need, as pyproject.toml says; Gradio comes with the Space."""
    import tomllib

    project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["evaluation"]]


def _refuse_folder(name: str) -> None:
    try:
        if Path(name).exists():
            raise HFValidationError("it is a folder here")
        validate_repo_id(name)
        if "/" not in name:
            raise HFValidationError("it names no owner")
    except HFValidationError as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"space: {name} is no repository of the Hub ({reason}); publish the model, and give its user/name"
        ) from None
