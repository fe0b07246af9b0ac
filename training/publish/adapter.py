"""Publish a LoRA adapter: its matrices, configuration and card, in one commit.

    python -m training.publish.adapter outputs/adapted me/sotu-lora --private
    python -m training.publish.adapter outputs/adapted me/sotu-lora --base me/sotu-text-jepa

Its base has to be on the Hub, or it opens nowhere else: the one that it was trained on, or with `--base` another name
of the same weights. Run it again after whatever stopped it. Exit codes: 0 published (or there already), 1 the Hub did
not take it, 2 bad input.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, ModelInfo, metadata_load
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open

from eval.command import new_parser
from training.common.addresses import checked_repo_id
from training.common.errors import InputError
from training.common.finite import broken_tensors
from training.common.layout import ADAPTER_FOLDER, CARD_FILE
from training.common.manifest import RUN_FILE
from training.init_from.adapters import AdaptedFrom, adapter_card
from training.publish.faults import naming_hub_faults, require_token, run_hub_command

_BASE = "base_model_name_or_path"
_AUTO_CLASSES = {"CAUSAL_LM": "AutoModelForCausalLM", "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM"}


def prepare_adapter(folder: Path, repo_id: str, base: str | None = None) -> dict[str, bytes]:
    """Name -> content of what is sent.

    Args:
        folder: an adapter's, or that of the run that made it.
        base: the id of the model that it is for; None for the one that its configuration names.

    Raises:
        InputError: no adapter there, one that is damaged or not finite, or a base that is not on the Hub.
    """
    folder = folder / ADAPTER_FOLDER if (folder / ADAPTER_FOLDER / CONFIG_NAME).is_file() else folder
    try:
        config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
        rank, name = config["r"], config[_BASE] if base is None else base
        with safe_open(folder / SAFETENSORS_WEIGHTS_NAME, "pt") as file:
            broken = broken_tensors((key, file.get_tensor(key)) for key in file.keys())  # noqa: SIM118  (no mapping)
    except FileNotFoundError as error:
        raise InputError(f"{folder} holds no adapter ({Path(error.filename).name} is missing): train one") from None
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise InputError(
            f"{folder} holds a damaged adapter ({' '.join(str(error).split())}); train it again"
        ) from None
    if broken:
        raise InputError(f"{folder} holds numbers that are not finite ({', '.join(broken[:3])}); train it again")
    config[_BASE] = _on_hub(name)
    card = ModelCard(adapter_card(AdaptedFrom(name, _auto_class(config)), rank).replace("PATH_OR_REPOSITORY", repo_id))
    for key, value in _about(folder.parent).items():
        card.data[key] = value
    return {
        CONFIG_NAME: f"{json.dumps(config, indent=2, sort_keys=True)}\n".encode(),
        SAFETENSORS_WEIGHTS_NAME: (folder / SAFETENSORS_WEIGHTS_NAME).read_bytes(),
        CARD_FILE: str(card).encode(),
    }


def publish_adapter(files: dict[str, bytes], repo_id: str, private: bool = False) -> str:
    """Send what `prepare_adapter` gave in one commit; returns its id. The same again makes no new commit.

    Raises:
        InputError: no token; the repository is public, where `private` is asked for, or holds something else.
        HubError: the base is not there, or the Hub did not take it; nothing of it is visible then.
    """
    api = HfApi(token=require_token(), endpoint=huggingface_hub.constants.ENDPOINT)
    base = json.loads(files[CONFIG_NAME])[_BASE]
    with naming_hub_faults(base, "the base has to be on the Hub: nothing was published"):
        api.model_info(base)
    with naming_hub_faults(repo_id, "nothing was published"):
        api.create_repo(repo_id, private=private or None, exist_ok=True)
        _refuse_other_content(api.model_info(repo_id), private)
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        return api.create_commit(repo_id, operations, commit_message="Publish a LoRA adapter").oid


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    return run_hub_command(_parser(), _publish, argv)


def _publish(arguments: argparse.Namespace) -> None:
    repo_id = checked_repo_id(arguments.repository, "repository")
    files = prepare_adapter(arguments.adapter, repo_id, arguments.base)
    for name, content in files.items():
        print(f"{len(content):>13,}  {name}")
    commit = publish_adapter(files, repo_id, arguments.private)
    print(f"published: {huggingface_hub.constants.ENDPOINT}/{repo_id} (commit {commit[:8]})")


def _refuse_other_content(there: ModelInfo, private: bool) -> None:
    if private and not there.private:
        raise InputError(f"private: {there.id} is there and public; make it private in its settings, or leave it out")
    held = {file.rfilename for file in there.siblings or []} - {".gitattributes", CARD_FILE}
    if held and CONFIG_NAME not in held:
        raise InputError(
            f"repository: {there.id} is there and holds no adapter ({', '.join(sorted(held)[:3])}); choose another "
            "name"
        )


def _about(run_dir: Path) -> dict[str, Any]:
    """What the run's card tells the Hub and is true of its adapter too."""
    if not (run_dir / RUN_FILE).is_file() or not (run_dir / CARD_FILE).is_file():
        return {}
    known = metadata_load(run_dir / CARD_FILE) or {}
    return {
        name: known[name]
        for name in ("language", "license", "license_name", "datasets", "pipeline_tag")
        if name in known
    }


def _on_hub(base: str | None) -> str:
    if base is None or Path(base).exists():
        raise InputError(f"base: the adapter is for {base}, which is not on the Hub: publish it, and give --base ID")
    return checked_repo_id(base, "base")


def _auto_class(config: dict) -> str:
    return _AUTO_CLASSES.get(
        config["task_type"] or "", (config["auto_mapping"] or {}).get("base_model_class", "AutoModel")
    )


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("training.publish.adapter", __doc__)
    parser.add_argument("adapter", type=Path, help="folder of a run with --lora_rank, or an adapter's")
    parser.add_argument("repository", help="where to: OWNER/NAME; it is made where it is not there")
    parser.add_argument("--base", metavar="ID", help="the published model that it is for (default: the one it names)")
    parser.add_argument("--private", action="store_true", help="a new repository is seen by its owner only")
    return parser


if __name__ == "__main__":
    sys.exit(main())
