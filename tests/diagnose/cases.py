"""What is handed to the doctor: a model, its tokenizer, its data, and its run and Trainer where a user has them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    Trainer,
)

from eval.diagnose import Finding, Limits, Report, diagnose
from tests.diagnose.tiny_training import (
    NO_MISTAKE,
    PARTS,
    Lesson,
    Mistake,
    learn,
    learn_ours,
    text_folder,
    texts_of,
    untrained,
)

Change = Callable[[PreTrainedModel], PreTrainedModel]
Parts = dict[str, list[str]]


@dataclass(frozen=True)
class Case:
    """Arguments of `diagnose`."""

    model: PreTrainedModel
    tokenizer: Any
    data: Parts | str | None
    run: Path | None = None
    trainer: Trainer | None = None
    found: tuple[Finding, ...] = ()  # what opening the model found

    def examine(self, limits: Limits | None = None, only: tuple[str, ...] = ()) -> Report:
        """The doctor's report."""
        report = diagnose(
            self.model, self.tokenizer, self.data, self.run, self.trainer, limits=limits, only=only, name="model"
        )
        return replace(report, findings=[*self.found, *report.findings])


# What a healthy tiny model of each architecture is taught: enough to know more than how often each token occurs.
LESSONS = {
    "gpt2": Lesson("gpt2"),
    "llama": Lesson("llama"),
    "neox": Lesson("neox"),
    "opt": Lesson("opt"),
    "bloom": Lesson("bloom"),
    "mamba": Lesson("mamba", steps=150, batch_size=8, learning_rate=1e-2),
    "qwen3": Lesson("qwen3"),
    "gemma2": Lesson("gemma2"),
    "falcon": Lesson("falcon"),
    "distilbert": Lesson("distilbert", steps=2000, batch_size=32, learning_rate=3e-3),
    "deberta": Lesson("deberta", steps=1200, batch_size=32, learning_rate=3e-3),
    "pegasus": Lesson("pegasus"),
    "bert_decoder": Lesson("bert_decoder", steps=200),
    "bert": Lesson("bert", steps=2500, batch_size=32, learning_rate=3e-3),
    "roberta": Lesson("roberta", steps=2500, batch_size=32, learning_rate=3e-3),
    "modernbert": Lesson("modernbert", steps=700),
    "t5": Lesson("t5"),
    "t5_classifier": Lesson("t5_classifier", steps=200),
    "bart": Lesson("bart", steps=1000, learning_rate=2e-3),
}
# The recipes of our own families are as long as a laptop is patient; these are enough to be past frequencies.
_TEXT = ("--hidden_size", "64", "--max_vocab", "900", "--max_steps", "600", "--eval_steps", "300")
_GENERATOR = (
    *("--hidden_size", "64", "--embedding_size", "64", "--num_hidden_layers", "2", "--max_vocab", "900"),
    *("--max_steps", "300", "--eval_steps", "150", "--time_dim", "16", "--per_device_train_batch_size", "16"),
)
# Replies of chatterbot repeat, so that few steps are enough to say them by what was asked.
_DIALOGUE = (
    *("--hidden_size", "64", "--max_vocab", "900", "--max_steps", "400", "--eval_steps", "200", "--eval_rows", "50"),
    *("--per_device_train_batch_size", "16", "--context_access", "latent"),
)
_VIDEO = (
    *("--hidden_size", "64", "--num_clips", "500", "--code_levels", "4", "4", "--frame_size", "32"),
    *("--max_position_embeddings", "8", "--max_steps", "200", "--eval_steps", "100", "--eval_rows", "16"),
)
_FLAGS = {"text_jepa": _TEXT, "staged_generator": _GENERATOR, "dialogue_jepa": _DIALOGUE, "video_jepa": _VIDEO}
_AUTO_CLASSES = {
    "text_jepa": AutoModelForMaskedLM,
    "staged_generator": AutoModelForCausalLM,
    "dialogue_jepa": AutoModelForSeq2SeqLM,
    "video_jepa": AutoModel,
}


def data() -> Parts:
    """The parts of the built-in text that the tiny models are trained with."""
    return {part: texts_of(part) for part in PARTS}


def changed_data(change: Callable[[Parts], Parts]) -> Parts:
    """The same after something was done to it."""
    folder = text_folder(change)
    return {part: texts_of(part, folder) for part in PARTS}


def healthy(architecture: str, **lesson: Any) -> Case:
    """A trained model of a stock architecture."""
    learnt = learn(replace(LESSONS[architecture], **lesson))
    return Case(learnt.model.eval(), learnt.tokenizer, data())


def healthy_run(architecture: str, mistake: Mistake = NO_MISTAKE, **lesson: Any) -> Case:
    """A trained model with its run folder and its Trainer; after a mistake in training, that one."""
    learnt = learn(replace(LESSONS[architecture], **lesson), mistake)
    return Case(learnt.model.eval(), learnt.tokenizer, data(), learnt.folder, learnt.trainer())


def trained_with(change: Change, architecture: str, seed: int, **lesson: Any) -> Case:
    """A model that was built wrong and trained so."""
    taught = replace(LESSONS[architecture], seed=seed, **lesson)
    learnt = learn(taught, Mistake(model=change))
    return Case(learnt.model.eval(), learnt.tokenizer, data())


def damaged(change: Change, architecture: str, **lesson: Any) -> Case:
    """A healthy model to which something happened."""
    case = healthy(architecture, **lesson)
    return replace(case, model=change(case.model).eval())


def ours(family: str, *flags: str, seed: int = 0, stop_teacher: bool = False) -> Case:
    """A model of this package with its run folder."""
    run = learn_ours(family, [*_FLAGS[family], *flags], seed, stop_teacher)
    model = _AUTO_CLASSES[family].from_pretrained(run).eval()
    if family in ("dialogue_jepa", "video_jepa"):  # their own data: dialogues, and digits
        return Case(model, None if family == "video_jepa" else AutoTokenizer.from_pretrained(run), None, run)
    return Case(model, AutoTokenizer.from_pretrained(run), data(), run)


def generator(stage: int, seed: int = 0) -> Case:
    """Stage `stage` of the staged generator, grown from those before it."""
    before = () if stage == 0 else ("--init_from", str(generator(stage - 1, seed).run))
    return ours("staged_generator", "--stage", str(stage), *before, seed=seed)


def fresh(architecture: str, seed: int = 0, **changes: Any) -> Case:
    """An untrained model."""
    model, tokenizer = untrained(architecture, seed, **changes)
    return Case(model, tokenizer, data())
