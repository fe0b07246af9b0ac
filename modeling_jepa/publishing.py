"""`model.push_to_hub` for a self-contained repository: what stood beside a model where it was loaded goes with it."""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from huggingface_hub import CommitInfo, HfApi, ModelCard, snapshot_download
from transformers import PreTrainedModel
from transformers.utils.hub import create_and_tag_model_card

CARD = "README.md"
# What a card calls the place of its model before that is known.
PLACEHOLDER = "PATH_OR_REPOSITORY"
_TOKENIZER = (
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "chat_template*"),
    "frame_tokenizer.safetensors",
)
# True of these weights only.
_MEASURED = (CARD, "run.json", "results/*", "plots/*", "index/*")
_WEIGHTS = "*model*.safetensors"


def push_model(
    model: PreTrainedModel,
    repo_id: str,
    *,
    commit_message: str | None = None,
    commit_description: str | None = None,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    max_shard_size: int | str | None = "50GB",
    tags: list[str] | None = None,
) -> CommitInfo:
    """Send model, code and, from where the model was loaded, its tokenizer, in one commit.

    Card, results and plots go along where the weights are still those that they were measured on; otherwise the
    library's own card does. Arguments are those of the library's `push_to_hub`.
    """
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        model.save_pretrained(folder, max_shard_size=max_shard_size or "50GB")
        bring_companions(model, folder, repo_id)
        if not (folder / CARD).is_file():
            named = token if isinstance(token, str) else None
            create_and_tag_model_card(repo_id, tags, token=named).save(folder / CARD)
        elif tags:
            _add_tags(folder / CARD, tags)
        if revision is not None and not revision.startswith("refs/pr"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        return api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message=commit_message or "Upload model",
            commit_description=commit_description,
            revision=revision,
            create_pr=create_pr,
        )


def bring_companions(model: PreTrainedModel, folder: Path, repo_id: str) -> None:
    """Copy into `folder`, where `model` was saved, what stood beside it where it was loaded; nothing where it was not.

    Args:
        repo_id: what the card calls the place of its model from now on.
    """
    source = _loaded_from(model)
    if source is None:
        return
    same = _weights(source) == _weights(folder)
    for pattern in (*_TOKENIZER, *(_MEASURED if same else ())):
        for path in (path for path in source.glob(pattern) if path.is_file()):
            target = folder / path.relative_to(source)
            if not target.exists():
                target.parent.mkdir(exist_ok=True)
                if path.suffix == ".json":
                    target.write_text(_without_folders(path.read_text(encoding="utf-8"), source), encoding="utf-8")
                else:
                    shutil.copyfile(path, target)
    if same and (folder / CARD).is_file():
        text = (folder / CARD).read_text(encoding="utf-8").replace(PLACEHOLDER, repo_id)
        if model.name_or_path and not Path(model.name_or_path).is_dir():
            text = text.replace(model.name_or_path, repo_id)
        (folder / CARD).write_text(text, encoding="utf-8")


def _without_folders(text: str, source: Path) -> str:
    """A text without the folders that say on whose machine it was made: where the model lies, where we are, home."""
    for folder in (source.resolve().parent, Path.cwd(), Path.home()):
        if folder != Path(folder.anchor):
            text = text.replace(f"{folder}{os.sep}", "")
    return text


def _loaded_from(model: PreTrainedModel) -> Path | None:
    """The folder that a model was loaded from; of a Hub repository its newest state, as a model keeps no commit."""
    name = model.name_or_path
    if not name or Path(name).is_dir():
        return Path(name) if name else None
    patterns = [*_TOKENIZER, *_MEASURED, _WEIGHTS]
    return Path(snapshot_download(name, allow_patterns=patterns))


def _weights(folder: Path) -> dict[str, str]:
    """Name -> SHA-256 of every file of weights."""
    hashes = {}
    for path in folder.glob(_WEIGHTS):
        with path.open("rb") as file:
            hashes[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def _add_tags(path: Path, tags: list[str]) -> None:
    card = ModelCard.load(path)
    card.data.tags = list(dict.fromkeys([*(card.data.tags or []), *tags]))
    card.save(path)
