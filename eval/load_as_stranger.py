"""Open a checkpoint as somebody does who has never seen this project, and use it: a masked model fills five blanks.

    python eval/load_as_stranger.py outputs/quickstart
    python eval/load_as_stranger.py outputs/quickstart "the people of the _ states" "we must _ our schools"

Everything is done in a new process in which the project's packages cannot be imported, with an empty module cache, in
another working folder and without a network: only the code that lies beside the weights can be used. Every Auto class
that the checkpoint declares is opened, and so are the stock pipelines and those that the checkpoint brings along.
Exit code 0: all of it worked; 1: something did not; 2: the folder is no checkpoint. This file imports nothing of the
package, as it also runs inside that process.
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
PHRASES = (
    "the people of the _ states",
    "the congress of the united _",
    "we must work for peace and _",
    "the state of the _ is strong",
    "during the last fiscal _ we spent more",
)
TOKENIZER_FILE = "tokenizer_config.json"
# The library's pipelines, each with the Auto class that it opens a model by.
STOCK_TASKS = {
    "feature-extraction": "AutoModel",
    "fill-mask": "AutoModelForMaskedLM",
    "text-generation": "AutoModelForCausalLM",
}
_INSIDE = "--inside"


class StrangerError(RuntimeError):
    """The checkpoint did not open without the package; the message holds what the process said."""


def load_as_stranger(checkpoint: str | Path, phrases: Sequence[str] = PHRASES, timeout: float = 300.0) -> dict:
    """Open a checkpoint of any family in a clean process, and fill a blank in each phrase where it is a masked model.

    Args:
        checkpoint: a folder written by save_pretrained or by a training run.
        phrases: each with one blank, written `_`.
        timeout: seconds until the process is given up.

    Returns:
        classes: {Auto class or pipeline: what it gave}; blanks: [{phrase, tokens, scores}], the five best of each.

    Raises:
        ValueError: the folder holds no config, or one that names no code.
        StrangerError: the process failed or took too long.
    """
    folder = Path(checkpoint).resolve()
    declared_auto_map(folder)
    with tempfile.TemporaryDirectory(prefix="stranger-") as elsewhere:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON"))}
        environment |= {"HF_HOME": elsewhere, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        # -I: neither the working folder, nor this script's own, nor the user's packages are on the path.
        command = [sys.executable, "-I", str(Path(__file__).resolve()), _INSIDE, str(folder), *phrases]
        try:
            process = subprocess.run(
                command, cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise StrangerError(f"{checkpoint} did not open within {timeout:.0f} seconds") from error
    if process.returncode != 0:
        raise StrangerError(f"{checkpoint} does not open without the package:\n{process.stderr.strip()}")
    return json.loads(process.stdout.splitlines()[-1])


def declared_auto_map(folder: Path) -> list[str]:
    """The Auto classes that a checkpoint's config declares; raises ValueError where there is none."""
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} holds no config.json; give a folder written by save_pretrained or a training run")
    declared = json.loads(path.read_text(encoding="utf-8")).get("auto_map")
    if not declared:
        raise ValueError(f"{path} has no auto_map, so it cannot be opened without the package; save the model again")
    return list(declared)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the check, print what came back, and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("checkpoint", type=Path, help="a folder written by save_pretrained, or by a training run")
    parser.add_argument("phrases", nargs="*", help="phrases with one blank, written _ (default: five)")
    arguments = parser.parse_args(argv)
    try:
        report = load_as_stranger(arguments.checkpoint, arguments.phrases or PHRASES)
    except (ValueError, StrangerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    print(f"Opened where {' and '.join(OWN_PACKAGES[:2])} cannot be imported:")
    for name, what in report["classes"].items():
        print(f"  {name:<22}{what}")
    for blank in report["blanks"]:
        print(f"  {blank['phrase']:<40} {blank['tokens'][0]:<12} (then {', '.join(blank['tokens'][1:])})")
    return 0


def _inside(folder: str, phrases: Sequence[str]) -> dict[str, Any]:
    """What runs in the clean process: open everything, and say what came back."""
    sys.modules.update(dict.fromkeys(OWN_PACKAGES))  # None there makes an import fail as if it were not installed
    import transformers

    classes = {}
    if has_tokenizer := (Path(folder) / TOKENIZER_FILE).is_file():  # a video model has none
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
        classes["AutoTokenizer"] = f"{type(tokenizer).__name__}, {len(tokenizer):,} tokens"
    declared = declared_auto_map(Path(folder))
    for name in declared:
        opened = _open(getattr(transformers, name), folder, is_model=name != "AutoConfig")
        if not type(opened).__module__.startswith("transformers_modules."):
            raise RuntimeError(f"{name} gave {type(opened)}, which is not the code beside the weights")
        size = "" if name == "AutoConfig" else f", {opened.num_parameters():,} parameters"
        classes[name] = type(opened).__name__ + size
    tasks = [task for task, name in STOCK_TASKS.items() if has_tokenizer and name in declared]
    blanks: list[dict[str, Any]] = []
    for task in [*tasks, *_own_tasks(Path(folder))]:
        used = transformers.pipeline(task, model=folder, trust_remote_code=True, device="cpu")
        if task == "fill-mask":
            blanks = [_fill(used, phrase) for phrase in phrases]
            classes[task] = f"five best tokens for {len(phrases)} phrases"
        else:
            classes[task] = _use(used, phrases[0].replace("_", "").strip())
    return {"classes": classes, "blanks": blanks}


def _own_tasks(folder: Path) -> list[str]:
    """The pipelines that a checkpoint brings along."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return list(config.get("custom_pipelines", {}))


def _use(pipeline: Any, phrase: str) -> str:
    """One answer of a pipeline, in words."""
    import torch

    if pipeline.task == "feature-extraction":
        vectors = pipeline(phrase)[0]
        return f"{len(vectors)} vectors of width {len(vectors[0])}"
    if pipeline.task == "text-generation":
        return repr(pipeline(phrase, max_new_tokens=8, return_full_text=False)[0]["generated_text"])
    if pipeline.task == "frame-prediction":
        config = pipeline.model.config
        black = torch.zeros(config.max_position_embeddings - 1, config.frame_size, config.frame_size)
        frames = pipeline(black, mode="argmax", steps=1)
        return f"{len(frames)} frame after {len(black)} of {config.frame_size} x {config.frame_size} pixels"
    return repr(pipeline(phrase)[0]["reply"])


def _open(auto_class: Any, folder: str, is_model: bool) -> Any:
    """A configuration, or a model of which every tensor came from the folder, but for a head to be fine-tuned."""
    if not is_model:
        return auto_class.from_pretrained(folder, trust_remote_code=True)
    model, info = auto_class.from_pretrained(
        folder, trust_remote_code=True, use_safetensors=True, output_loading_info=True
    )
    is_new_head = type(model).__name__ not in (model.config.architectures or [])
    missing = [key for key in info["missing_keys"] if not (is_new_head and key.startswith("classifier."))]
    if wrong := [*missing, *info["unexpected_keys"], *info["mismatched_keys"]]:
        raise RuntimeError(f"{auto_class.__name__}: {folder} does not hold the tensors of its model: {wrong[:5]}")
    return model


def _fill(pipeline: Any, phrase: str) -> dict[str, Any]:
    """The five best tokens at the blank of one phrase."""
    answers = pipeline(phrase.replace("_", pipeline.tokenizer.mask_token, 1), top_k=5)
    return {
        "phrase": phrase,
        "tokens": [answer["token_str"].strip() for answer in answers],
        "scores": [answer["score"] for answer in answers],
    }


if __name__ == "__main__":
    if sys.argv[1:2] == [_INSIDE]:
        print(json.dumps(_inside(sys.argv[2], sys.argv[3:])))
        sys.exit(0)
    sys.exit(main())
