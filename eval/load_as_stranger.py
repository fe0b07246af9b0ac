"""Open a checkpoint as somebody does who has never seen this project, and say what came back.

    python -m eval.load_as_stranger outputs/quickstart

Everything is done in a new process in which the project's packages cannot be imported, with an empty module cache, in
another working folder and without a network: only the code that lies beside the weights can be used. Every Auto class
that the checkpoint declares is opened, and the stock pipelines are asked once. Exit code 0: all of it worked; 1:
something did not; 2: the folder is no checkpoint.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

OWN_PACKAGES = ("configuration_jepa", "modeling_jepa", "training", "eval")
PIPELINES = {"AutoModel": "feature-extraction", "AutoModelForMaskedLM": "fill-mask"}
PHRASE = "the people of the {mask} states"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the check in a process of its own and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("checkpoint", type=Path, help="a folder written by save_pretrained, or by a training run")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.inside:
        return _be_a_stranger(arguments.checkpoint)
    try:
        declared = _auto_map(arguments.checkpoint)
    except (OSError, ValueError) as error:
        print(f"error: checkpoint: {error}", file=sys.stderr)
        return 2
    print(f"Opened where {' and '.join(OWN_PACKAGES[:2])} cannot be imported ({', '.join(declared)}):", flush=True)
    return _run_elsewhere(arguments.checkpoint.resolve())


def _auto_map(folder: Path) -> list[str]:
    """The Auto classes that the checkpoint's config declares.

    Raises:
        ValueError: the folder holds no config, or a config that names no code.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} holds no config.json; give a folder written by save_pretrained or a training run.")
    declared = json.loads(path.read_text(encoding="utf-8")).get("auto_map")
    if not declared:
        raise ValueError(f"{path} has no auto_map, so it cannot be opened without the package; save the model again.")
    return list(declared)


def _run_elsewhere(folder: Path) -> int:
    with tempfile.TemporaryDirectory(prefix="stranger-") as elsewhere:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON"))}
        environment |= {"HF_HOME": elsewhere, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        command = [sys.executable, "-I", str(Path(__file__).resolve()), str(folder), "--inside"]
        return int(subprocess.run(command, cwd=elsewhere, env=environment, check=False).returncode != 0)


def _be_a_stranger(folder: Path) -> int:
    sys.modules.update(dict.fromkeys(OWN_PACKAGES))  # None there makes an import fail as if it were not installed
    import transformers

    transformers.utils.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    _say("AutoTokenizer", f"{type(tokenizer).__name__}, {len(tokenizer):,} tokens")
    for name in _auto_map(folder):
        opened = getattr(transformers, name).from_pretrained(folder, trust_remote_code=True)
        size = "" if name == "AutoConfig" else f", {opened.num_parameters():,} parameters"
        _say(name, type(opened).__name__ + size)
        if name in PIPELINES:
            _ask(transformers.pipeline(PIPELINES[name], model=str(folder), trust_remote_code=True))
    return 0


def _ask(pipeline: Any) -> None:
    if pipeline.task == "fill-mask":
        best = pipeline(PHRASE.format(mask=pipeline.tokenizer.mask_token))[0]
        _say(pipeline.task, f"{PHRASE.format(mask='_')!r}: {best['token_str']!r} ({best['score']:.2f})")
    else:
        vectors = pipeline(PHRASE.format(mask="united"))[0]
        _say(pipeline.task, f"{len(vectors)} vectors of width {len(vectors[0])}")


def _say(name: str, what: str) -> None:
    print(f"  {name:<22}{what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
