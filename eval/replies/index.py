"""Replies that were learnt from, found again by their latents: an index that travels with a dialogue checkpoint.

index = ReplyIndex.build(model, tokenizer, replies)
index.save("outputs/dialogue")
ReplyIndex.load("outputs/dialogue", model, tokenizer).retrieve("how are you?", k=5)
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from huggingface_hub import snapshot_download
from rich.progress import Progress
from safetensors.numpy import load_file, save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eval.decoding.token_scores import evaluating
from eval.replies.nearest import Search, make_search
from eval.replies.saying import batches_by_length, padded, read_turns, whole_reply
from training.common.errors import InputError, NonFiniteError
from training.common.layout import INDEX_FOLDER, LATENTS, REPLIES
from training.common.manifest import MANIFEST, sha256_of, verify_manifest
from training.data.dialogue_jepa.framing import encode_turns, frame_reply
from training.data.prepared import tokenizer_hash

SCHEMA_VERSION = 1


_TEXTS_AT_ONCE = 8192


@dataclass(frozen=True)
class Found:
    """A reply and the cosine, mean over the latents, of its latents with the predicted ones."""

    reply: str
    cosine: float


class ReplyIndex:
    """Latents `(N, S, H)`, float16 unit vectors, of N different replies, for the model that read them.

    `weights` is the hash of what latents depend on, see `weights_hash`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        latents: np.ndarray,
        replies: list[str],
        weights: str,
    ) -> None:
        if len(latents) != len(replies) or latents.ndim != 3:
            raise ValueError(f"latents {latents.shape} must be (N, S, H) for {len(replies)} replies")
        self.model, self.tokenizer = model, tokenizer
        self.latents, self.replies, self.weights = latents, replies, weights

    def __len__(self) -> int:
        return len(self.replies)

    @classmethod
    def build(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        replies: Iterable[str],
        batch_size: int = 64,
        progress: bool = False,
    ) -> "ReplyIndex":
        """Read every different reply once. Memory: the texts, and S x H x 2 bytes each.

        Raises:
            InputError: no reply. NonFiniteError: the model gives NaN.
        """
        texts = list(dict.fromkeys(text.strip() for text in replies if text.strip()))
        if not texts:
            raise InputError("an index needs at least one reply, was given none; check the source")
        config = model.config
        latents = np.zeros((len(texts), config.num_latents, config.hidden_size), dtype=np.float16)
        with evaluating(model), Progress(disable=not progress, transient=True) as bar:
            task = bar.add_task("reading replies", total=len(texts))
            for start in range(0, len(texts), _TEXTS_AT_ONCE):
                rows = _encoded(texts[start : start + _TEXTS_AT_ONCE], model, tokenizer)
                for batch in batches_by_length([len(row) for row in rows], model, batch_size):
                    latents[start + batch] = _unit(model.read_replies(**padded([rows[i] for i in batch], model)))
                    bar.advance(task, len(batch))
        return cls(model, tokenizer, latents, texts, weights_hash(model))

    def save(self, checkpoint: str | Path) -> Path:
        """Write `index/` into a checkpoint's folder, whole or not at all; returns where it lies."""
        folder = Path(checkpoint) / INDEX_FOLDER
        if not folder.parent.is_dir():
            raise InputError(f"{checkpoint} is no folder: an index is kept in its checkpoint's; download it first")
        staged = folder.with_name(f".{INDEX_FOLDER}.{os.getpid()}")
        try:
            shutil.rmtree(staged, ignore_errors=True)
            staged.mkdir(parents=True)
            save_file({"latents": self.latents}, staged / LATENTS)
            with (staged / REPLIES).open("w", encoding="utf-8") as file:
                file.writelines(json.dumps({"reply": text}, ensure_ascii=False) + "\n" for text in self.replies)
            (staged / MANIFEST).write_text(json.dumps(self._manifest(staged), indent=1), encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(staged, folder)
        except OSError as error:
            raise InputError(f"cannot write {folder}: {error.strerror}; choose another place") from error
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        return folder

    @classmethod
    def load(cls, checkpoint: str | Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> "ReplyIndex":
        """The index beside a checkpoint (a folder, or a repository of the Hub).

        Raises:
            InputError: there is none, it is damaged, or it was built by another model or tokenizer.
        """
        folder = _folder_of(checkpoint)
        if not (folder / MANIFEST).is_file():
            raise InputError(
                f"{checkpoint} has no index of replies: build one with python -m eval.retrieval {checkpoint}"
            )
        verify_manifest(folder)
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        _refuse_foreign(folder, manifest, model, tokenizer)
        try:
            latents = load_file(folder / LATENTS)["latents"]
            with (folder / REPLIES).open(encoding="utf-8") as file:
                replies = [json.loads(line)["reply"] for line in file]
        except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
            raise InputError(f"{folder} is damaged: {' '.join(str(error).split())}; build it again") from error
        return cls(model, tokenizer, latents, replies, manifest["weights"])

    def retrieve(self, prompt: str | Sequence[str], k: int = 5) -> list[Found]:
        """The k replies nearest to what the model predicts for a message, or for turns whose last is the message.

        Raises:
            InputError: see `read_turns` and `search`. NonFiniteError: the model predicts NaN.
        """
        turns = [prompt] if isinstance(prompt, str) else prompt
        return self.retrieve_all([read_turns(turns, self.model, self.tokenizer).ids], k)[0]

    def retrieve_all(self, contexts: Sequence[Sequence[int]], k: int = 5, batch_size: int = 64) -> list[list[Found]]:
        """The same for many contexts (token ids, see `read_turns`)."""
        rows = [np.asarray(context) for context in contexts]
        found: list[list[Found]] = [[] for _ in rows]
        with evaluating(self.model):
            for batch in batches_by_length([len(row) for row in rows], self.model, batch_size):
                read = self.model.model(**padded([rows[i] for i in batch], self.model))
                cosines, places = self.search(_unit(read.predicted_latents), k)
                for index, values, at in zip(batch, cosines, places, strict=True):
                    found[index] = [Found(self.replies[j], float(value)) for value, j in zip(values, at, strict=True)]
        return found

    def search(self, predicted: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest replies of each prediction, best first; of equals the earlier reply.

        Args:
            predicted: `(B, S, H)` unit vectors.

        Returns:
            Cosines and indices, `(B, k)`; fewer than k where the index is smaller.
        """
        if k < 1:
            raise InputError(f"top_k must be at least 1, was given {k}")
        if predicted.shape[1:] != self.latents.shape[1:]:
            raise ValueError(f"predicted has shape {predicted.shape}, the index holds {self.latents.shape}")
        queries = predicted.reshape(len(predicted), -1).astype(np.float32) / predicted.shape[1]
        return self._search.search(queries, min(k, len(self)))

    @cached_property
    def _search(self) -> Search:
        return make_search(self.latents.reshape(len(self), -1))

    def _manifest(self, folder: Path) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "weights": self.weights,
            "tokenizer": tokenizer_hash(self.tokenizer),
            "shape": list(self.latents.shape),
            "files": {name: sha256_of(folder / name) for name in (LATENTS, REPLIES)},
        }


def weights_hash(model: PreTrainedModel) -> str:
    """The sha256 of all that latents depend on: reader, predictor and, once it has moved, the teacher.

    The same for a model in memory, saved, published and opened again, in any number of files.
    """
    parts = {"model": model.model}
    if model.teacher.num_updates > 0:  # before, it is the student
        parts["teacher"] = model.teacher.target
    digest = hashlib.sha256()
    for part, module in parts.items():
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(f"{part}.{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _encoded(texts: list[str], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[np.ndarray]:
    """Replies as the teacher reads them; those that are too long without their end."""
    length = model.config.max_reply_length
    return [whole_reply(frame_reply(ids, tokenizer, length)[0], tokenizer) for ids in encode_turns(texts, tokenizer)]


def _unit(latents: torch.Tensor) -> np.ndarray:
    """`(B, S, H)` unit vectors, float32. Raises NonFiniteError."""
    if not torch.isfinite(latents).all():
        raise NonFiniteError("the model gives latents that are NaN or infinite: use an earlier checkpoint")
    return torch.nn.functional.normalize(latents.float(), dim=-1).cpu().numpy()


def _folder_of(checkpoint: str | Path) -> Path:
    """Where the index of a checkpoint lies; of a repository, after fetching it."""
    if Path(checkpoint).is_dir():
        return Path(checkpoint) / INDEX_FOLDER
    try:
        return Path(snapshot_download(str(checkpoint), allow_patterns=f"{INDEX_FOLDER}/*")) / INDEX_FOLDER
    except (OSError, ValueError) as error:
        raise InputError(
            f"the index of {checkpoint} cannot be fetched: {' '.join(str(error).split())}; check the name"
        ) from error


def _refuse_foreign(
    folder: Path, manifest: dict[str, Any], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Raise InputError for an index that another model, or the same one with another tokenizer, has built."""
    own = {"weights": weights_hash(model), "tokenizer": tokenizer_hash(tokenizer)}
    for name, value in own.items():
        given = str(manifest.get(name))
        if given != value:
            raise InputError(
                f"{folder} does not belong to this checkpoint: the hash of its {name} is {given[:12]}, the "
                f"checkpoint's {value[:12]}; build it again with python -m eval.retrieval {folder.parent}"
            )
