"""Tiny models trained for seconds on the built-in text, kept by content: what the doctor is tried on.

A model is trained by the plain `transformers.Trainer`, or by this package's own command line, and leaves a run folder:
weights, tokenizer and log. The same lesson with the same mistake is learnt once on a machine.
"""

import dataclasses
import inspect
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Trainer, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging as library_logging

from tests.diagnose.architectures import ARCHITECTURES, CONTEXT, Architecture
from training.data.cache import cached, digest
from training.data.sources.builtin import builtin_fingerprint, read_builtin
from training.data.sources.sentences import split_sentences

IGNORED = -100
WORDS = range(6, 33)  # of a sentence that is taken
PARTS = {"train": 12_000, "valid": 400, "test": 400}
ROOT = Path(__file__).resolve().parents[2]
OWN_CODE = ("configuration_jepa", "modeling_jepa", "training", "eval")
# Nothing here is imported by `training/train.py` as these models are trained: without `--diagnose`.
NO_PART_IN_TRAINING = (
    *("eval/diagnose", "eval/benchmarks", "eval/demo", "eval/chat.py", "eval/retrieval.py"),
    *("eval/advice/facts.py", "eval/advice/record.py", "training/cards/__main__.py", "training/publish"),
)

Rows = list[dict[str, Any]]
Collator = Callable[[Rows], dict[str, torch.Tensor]]


@dataclass(frozen=True)
class Lesson:
    """What a tiny model is taught.

    Attributes:
        architecture: a name of `ARCHITECTURES`.
        seed: of weights and order.
        steps, batch_size, learning_rate: of AdamW, with a tenth of the steps as warm-up and a linear decay.
        changes: of the configuration.
        single: whether a row is one sentence, padded, where it could be a full block.
        arguments: more of the `TrainingArguments`.
    """

    architecture: str
    seed: int = 0
    steps: int = 400
    batch_size: int = 16
    learning_rate: float = 4e-3
    changes: dict[str, Any] = field(default_factory=dict)
    single: bool = False
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def of(self) -> Architecture:
        """Its architecture."""
        return ARCHITECTURES[self.architecture]


@dataclass(frozen=True)
class Mistake:
    """What goes wrong in training, as a user would write it.

    Attributes:
        model: changes a model that was built or loaded, in place, and returns it.
        collator: (the right collator, tokenizer) -> the wrong one.
        trainer: the class of Trainer.
        metrics: its `compute_metrics`.
    """

    model: Callable[[PreTrainedModel], PreTrainedModel] | None = None
    collator: Callable[[Collator, PreTrainedTokenizerFast], Collator] | None = None
    trainer: type[Trainer] = Trainer
    metrics: Callable[[Any], dict[str, float]] | None = None

    @property
    def source(self) -> list[str]:
        """What goes wrong, and the whole files that its code stands in: what was learnt with it is kept by them."""
        made = [self.model, self.collator, self.metrics, None if self.trainer is Trainer else self.trainer]
        return [text for part in made if part is not None for text in (part.__qualname__, _file_of(part))]


NO_MISTAKE = Mistake()


@dataclass(frozen=True)
class Learnt:
    """A trained model and what is left of its training."""

    folder: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    lesson: Lesson
    mistake: Mistake

    def trainer(self) -> Trainer:
        """The Trainer as it stood at the end: its data, its arguments, its loss, this very model."""
        return _trainer(self.model, self.tokenizer, self.lesson, self.mistake, self.folder)


def learn(lesson: Lesson, mistake: Mistake = NO_MISTAKE) -> Learnt:
    """Train, or take what was trained before."""
    settings = dataclasses.asdict(lesson)
    key = digest("tiny", settings, mistake.source, *_surroundings())
    folder, _ = cached(key, lambda staging: _train_into(staging, lesson, mistake))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = lesson.of.auto.from_pretrained(folder)
    return Learnt(folder, _changed(model, mistake), tokenizer, lesson, mistake)


def learn_ours(family: str, flags: Sequence[str], seed: int = 0, stop_teacher: bool = False) -> Path:
    """The run folder of one of this package's own families, trained by its own command line.

    Args:
        flags: of `training/train.py`, beside data and length of text; dialogues and digits are the recipe's own.
        stop_teacher: whether the moving average is forgotten after its first step.
    """
    path = ROOT / "training" / "recipes" / family / f"{'tiny' if family == 'video_jepa' else 'quickstart'}.yaml"
    recipe_text = path.read_text(encoding="utf-8")
    key = digest("ours", recipe_text, list(flags), seed, stop_teacher, package_code(), *_surroundings())
    reads_text = family in ("text_jepa", "staged_generator")
    text = ["--data", str(text_folder()), "--max_position_embeddings", str(CONTEXT)] if reads_text else []
    command = [str(path), *text]
    command += ["--seed", str(seed), "--device", "cpu", "--threads", "1", "--final_score", "false", *flags]
    folder, _ = cached(key, lambda staging: _train_ours(staging, command, stop_teacher))
    return folder / "run"


def text_folder(changed: Callable[[dict[str, list[str]]], dict[str, list[str]]] | None = None) -> Path:
    """A folder of train.txt, valid.txt and test.txt: a sentence per line, whole addresses held out.

    Args:
        changed: parts -> parts, for data with a fault.
    """
    code = [_file_of(made) for made in (split_sentences, read_builtin, text_folder)]
    fault = [] if changed is None else [changed.__qualname__, _file_of(changed)]
    key = digest("texts", builtin_fingerprint("sotu"), *code, *fault)

    def write(staging: Path) -> None:
        parts = _sentences() if changed is None else changed(_sentences())
        for name, texts in parts.items():
            (staging / f"{name}.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")

    return cached(key, write)[0]


def texts_of(part: str, folder: Path | None = None) -> list[str]:
    """The sentences of one part."""
    return ((folder or text_folder()) / f"{part}.txt").read_text(encoding="utf-8").splitlines()


def tokenizer_of(architecture: str) -> PreTrainedTokenizerFast:
    """The vocabulary that this architecture's models are trained with."""
    maker = ARCHITECTURES[architecture].tokenizer
    key = digest("tokenizer", maker.__qualname__, *_surroundings())
    folder, _ = cached(key, lambda staging: maker(texts_of("train")).save_pretrained(staging))
    return PreTrainedTokenizerFast.from_pretrained(folder)


def untrained(architecture: str, seed: int = 0, **changes: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A model with the weights that it would begin with, and its tokenizer."""
    tokenizer = tokenizer_of(architecture)
    set_seed(seed)
    return ARCHITECTURES[architecture].build(tokenizer, changes).eval(), tokenizer


def package_code() -> str:
    """Digest of all code of this package that has a part in a training: the models, what trains and scores them."""
    files = [path for folder in OWN_CODE for path in sorted((ROOT / folder).rglob("*.py"))]
    left_out = [ROOT / folder for folder in NO_PART_IN_TRAINING]
    taken = [path for path in files if not any(path.is_relative_to(folder) for folder in left_out)]
    return digest({str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in taken})


def _surroundings() -> list[str]:
    """What every model hangs on: its text, the code that builds and trains it, the libraries."""
    code = [_file_of(Architecture), _file_of(learn)]
    return [text_folder().name, *code, transformers.__version__, torch.__version__]


def _file_of(made: Any) -> str:
    """The whole file that a function or a class stands in: what it calls there is a part of it."""
    return Path(inspect.getfile(made)).read_text(encoding="utf-8")


def _sentences() -> dict[str, list[str]]:
    """Parts of whole addresses: the first sentences of each that are neither short nor long."""
    addresses: dict[str, list[str]] = {}
    for row in read_builtin("sotu"):
        addresses.setdefault(row.group, []).extend(row.texts)
    groups = [addresses[name] for name in sorted(addresses)]
    shares = {"train": groups[1::2], "valid": groups[4::40], "test": groups[24::40]}
    return {name: _equal_shares(shares[name], count) for name, count in PARTS.items()}


def _equal_shares(addresses: list[list[str]], count: int) -> list[str]:
    share = -(-count // len(addresses))
    taken = [text for paragraphs in addresses for text in islice(_fitting(paragraphs), share)]
    return taken[:count]


def _fitting(paragraphs: list[str]) -> Iterator[str]:
    found = (sentence for text in paragraphs for sentence in split_sentences(text))
    return (sentence for sentence in found if len(sentence.split()) in WORDS)


def _train_into(folder: Path, lesson: Lesson, mistake: Mistake) -> None:
    model, tokenizer = untrained(lesson.architecture, lesson.seed, **lesson.changes)
    trainer = _trainer(_changed(model, mistake), tokenizer, lesson, mistake, folder)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    trainer.evaluate()
    trainer.save_model(str(folder))
    trainer.save_state()
    (folder / "training_args.bin").unlink()


def _trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    lesson: Lesson,
    mistake: Mistake,
    folder: Path,
) -> Trainer:
    collator = lesson.of.collator(tokenizer)
    if mistake.collator is not None:
        collator = mistake.collator(collator, tokenizer)
    return mistake.trainer(
        model=model,
        args=_arguments(lesson, folder),
        data_collator=collator,
        train_dataset=_rows(lesson, tokenizer, "train"),
        eval_dataset=_rows(lesson, tokenizer, "valid").select(range(64)),
        processing_class=tokenizer,
        compute_metrics=mistake.metrics,
    )


def _arguments(lesson: Lesson, folder: Path) -> TrainingArguments:
    own = {
        "max_steps": lesson.steps,
        "per_device_train_batch_size": lesson.batch_size,
        "learning_rate": lesson.learning_rate,
        "warmup_steps": lesson.steps // 10,
        "weight_decay": 0.01,
        "seed": lesson.seed,
        "logging_steps": 10,
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": "none",
        "remove_unused_columns": False,
        "log_level": "error",
    }
    return TrainingArguments(output_dir=str(folder), **{**own, **lesson.arguments})


def _rows(lesson: Lesson, tokenizer: PreTrainedTokenizerFast, part: str) -> Dataset:
    return Dataset.from_list(lesson.of.rows(tokenizer, texts_of(part), lesson.single))


def _changed(model: PreTrainedModel, mistake: Mistake) -> PreTrainedModel:
    return model if mistake.model is None else mistake.model(model)


def _train_ours(folder: Path, command: list[str], stop_teacher: bool) -> None:
    from training import train
    from training.trainer import build, callbacks

    class OnceOnly(callbacks.TeacherUpdate):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 1:
                super().on_step_end(args, state, control, **kwargs)

    right = build.TeacherUpdate
    build.TeacherUpdate = OnceOnly if stop_teacher else right
    try:
        code = train.main([*command, "--output_dir", str(folder / "run")])
    finally:
        build.TeacherUpdate = right
        logging.getLogger("training").handlers.clear()
    if code:
        raise RuntimeError(f"training/train.py {' '.join(command)} ended with {code}")


os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
library_logging.disable_progress_bar()
