"""What the demo's tabs answer, one class a family: text in, text, tables and files out. No page, so no Gradio.

tab = open_tab("outputs/quickstart")
tab.ask("the people of the _ states", answer="united")

Every answer is made by the functions of the command lines. Bad input is no error here: `note` says it in one line.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, wraps
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

from configuration_jepa import DialogueJepaConfig, TextJepaConfig, VideoJepaConfig
from eval.chat import Conversation, reading_of_run
from eval.decoding.decoding import Decoding
from eval.fill_blank import fill_blank, guess_rows, rank_line
from eval.generate import continue_prompt, figures_line, words_of_run
from eval.loading import checked_name, open_model, open_tokenizer
from eval.plots.clips import save_animation, save_still
from eval.predict_video import figure_cells, predict_clips
from eval.replies.index import ReplyIndex
from eval.replies.saying import open_dialogue
from eval.scorers.checkpoint import data_settings, family_of
from eval.scorers.request import ScoreRequest
from training.common.errors import InputError, NonFiniteError
from training.data.video_jepa.digits import BUILTIN
from training.data.video_jepa.prepared import HELD_OUT_CLIPS, make_clips

_RUN_STATE = ("checkpoint-*/*", "*.pt", "*.pth", "*.bin", "*.onnx")


@dataclass(frozen=True)
class Filled:
    """Rows of place, token, cosine and score; `note`: the answer's rank, or what was wrong."""

    rows: list[list[str]]
    note: str


@dataclass(frozen=True)
class Continued:
    """The likeliest and a sampled continuation, with what was counted of each; `note`: what was wrong."""

    greedy: str = ""
    greedy_figures: str = ""
    sampled: str = ""
    sampled_figures: str = ""
    note: str = ""


@dataclass(frozen=True)
class Said:
    """All turns of the conversation, the user's first; `candidates`: what was retrieved; `note`: what to know."""

    turns: list[str]
    candidates: str = ""
    note: str = ""


@dataclass(frozen=True)
class Predicted:
    """Files of the animation and of the still (None where something was wrong), a row of figures, `note`."""

    animation: Path | None = None
    still: Path | None = None
    figures: tuple[str, ...] = ()
    note: str = ""


def _saying_what_is_wrong(otherwise: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Of a tab's question: bad input and NaN as the note of an answer, made by `otherwise(note, arguments...)`."""

    def decorate(question: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(question)
        def ask(tab: Any, *arguments: Any, **named: Any) -> Any:
            try:
                return question(tab, *arguments, **named)
            except (InputError, NonFiniteError) as error:
                return otherwise(f"error: {error}", *arguments)

        return ask

    return decorate


class FillTab:
    """Fill a blank: the nearest words, and the rank of an answer."""

    title = "Fill a blank"

    def __init__(self, folder: str, device: str | None) -> None:
        self.tokenizer = open_tokenizer(folder)
        self.model = open_model(folder, AutoModelForMaskedLM, device)

    @_saying_what_is_wrong(lambda note, *_: Filled([], note))
    def ask(self, phrase: str, answer: str = "", top_k: int = 5) -> Filled:
        """The words nearest to what the model predicts at `_`, and where `answer` stands (empty: none)."""
        result = fill_blank(self.model, self.tokenizer, phrase, answer.strip() or None, int(top_k))
        return Filled(guess_rows(result), rank_line(result, answer.strip()) if answer.strip() else "")


class GenerateTab:
    """Continue a prompt: greedy beside top-k."""

    title = "Generate"

    def __init__(self, folder: str, device: str | None) -> None:
        self.folder, self.tokenizer = folder, open_tokenizer(folder)
        self.model = open_model(folder, AutoModelForCausalLM, device)
        self.decoding = travelling(self.model)

    @cached_property
    def words(self) -> Any:
        """What counts as a real word, where the training text is here."""
        return words_of_run(self.folder)

    @_saying_what_is_wrong(lambda note, *_: Continued(note=note))
    def ask(self, prompt: str, decoding: Decoding) -> Continued:
        """The likeliest continuation and the first sampled one."""
        found = continue_prompt(self.model, self.tokenizer, prompt, replace(decoding, num_samples=1), self.words)
        greedy, sampled = found[0], found[-1]
        return Continued(greedy.text, figures_line(greedy.figures), sampled.text, figures_line(sampled.figures))


class ChatTab:
    """Talk, several turns: the turns are the caller's, so that one model serves many conversations."""

    title = "Chat"

    def __init__(self, folder: str, device: str | None) -> None:
        self.folder = folder
        self.model, self.tokenizer = open_dialogue(folder, device)
        self.data, self.decoding = reading_of_run(folder), travelling(self.model)

    @cached_property
    def index(self) -> ReplyIndex:
        """Read when a reply is first retrieved."""
        return ReplyIndex.load(self.folder, self.model, self.tokenizer)

    @_saying_what_is_wrong(lambda note, message, turns, *_: Said(list(turns), note=note))
    def ask(self, message: str, turns: list[str], mode: str, decoding: Decoding) -> Said:
        """The conversation with the message and the model's reply to it."""
        own = replace(decoding, seed=decoding.seed + len(turns))
        conversation = Conversation(self.model, self.tokenizer, lambda: self.index, self.data, own)
        conversation.turns = list(turns)
        answer = conversation.answer(message, mode)
        said = [*turns, message.strip(), answer.reply or answer.lines[0]]
        candidates = "\n".join(answer.lines) if mode == "retrieve" else ""
        return Said(said, candidates, f"note: {answer.note}" if answer.note else "")


class VideoTab:
    """Predict the second half of a held-out clip: truth, prediction, difference.

    Args:
        clips: digits or clips in the place of the run's own; see `eval.score --clips`.

    Attributes:
        count: of the held-out clips.
    """

    title = "Predicted video"

    def __init__(self, folder: str, device: str | None, clips: str | None = None) -> None:
        self.model = open_model(folder, AutoModel, device)
        length, size = self.model.config.max_position_embeddings, self.model.config.frame_size
        self.note = ""
        try:
            self.clips, _ = make_clips(data_settings(ScoreRequest(folder, digits=clips)), "test", length, size)
        except InputError:
            if clips is not None:
                raise
            # a run's own data is rarely on the machine that shows its model
            settings = data_settings(ScoreRequest(folder, digits=BUILTIN))
            self.clips, _ = make_clips(settings, "test", length, size)
            self.note = f"note: the digits or clips it was trained on are not here, these are {BUILTIN}"
        self.count = self.clips.count or HELD_OUT_CLIPS
        self.pictures = tempfile.TemporaryDirectory(prefix="demo-")

    @_saying_what_is_wrong(lambda note, *_: Predicted(note=note))
    def ask(self, number: int, mode: str = "expectation", seed: int = 0) -> Predicted:
        """The test clip of that number, as the model predicts it after its first half."""
        if not 0 <= int(number) < self.count:
            raise InputError(f"clip: got {number}; use 0 to {self.count - 1:,}")
        frames = self.clips.frames(range(int(number), int(number) + 1))
        shown = predict_clips(self.model, frames, mode, seed=int(seed))
        stem = Path(self.pictures.name) / f"clip-{int(number)}-{mode}-{int(seed)}"
        animation, still = stem.with_suffix(".gif"), stem.with_suffix(".png")
        save_animation(shown, animation)
        save_still(shown, still)
        return Predicted(animation, still, tuple(figure_cells(shown[0])), self.note)


Tab = FillTab | GenerateTab | ChatTab | VideoTab
_TABS: dict[str, type[Tab]] = {
    TextJepaConfig.model_type: FillTab,
    DialogueJepaConfig.model_type: ChatTab,
    VideoJepaConfig.model_type: VideoTab,
}


def open_tab(checkpoint: str, device: str | None = None, clips: str | None = None) -> Tab:
    """The tab of a checkpoint's family; causal models of the library can be continued too.

    Args:
        clips: of a video model, see `VideoTab`.

    Raises:
        InputError: no checkpoint there, one that is damaged, or one of no such family; clips that cannot be read.
    """
    folder = _local(checkpoint)
    kind = _TABS.get(family_of(folder), GenerateTab)
    return VideoTab(folder, device, clips) if kind is VideoTab else kind(folder, device)


def travelling(model: Any) -> Decoding:
    """The settings that a checkpoint's generation config brings along; ours where it says nothing."""
    own, default = model.generation_config, Decoding()
    return replace(
        default,
        top_k=default.top_k if own.top_k is None else own.top_k,
        temperature=default.temperature if own.temperature is None else own.temperature,
        repetition_penalty=default.repetition_penalty if own.repetition_penalty is None else own.repetition_penalty,
    )


def _local(checkpoint: str) -> str:
    """The folder of a checkpoint; of a repository, after fetching it: its run.json and index are needed too."""
    name = checked_name(checkpoint)
    if Path(name).is_dir():
        return name
    try:
        return snapshot_download(name, ignore_patterns=list(_RUN_STATE))
    except (OSError, ValueError) as error:
        raise InputError(f"{checkpoint} cannot be fetched: {' '.join(str(error).split())}; check the name") from error
