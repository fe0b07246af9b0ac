"""The demo's page: each tab's inputs and outputs, wired to `eval.demo.tabs`. Needs Gradio, the extra `demo`."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from eval.chat import MODES
from eval.decoding.decoding import Decoding
from eval.demo.tabs import ChatTab, Continued, FillTab, GenerateTab, Tab, VideoTab
from eval.predict_video import FIGURES
from modeling_jepa.frame_decoding import MODES as FRAME_MODES

# One model answers one question at a time, in whatever tab it was asked.
_ALONE: dict[str, Any] = {"concurrency_id": "models", "concurrency_limit": 1}
# No fonts from elsewhere: the page works without a network.
THEME = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"])


def build_page(tabs: Sequence[tuple[str, Tab]], title: str = "jepa-lm") -> gr.Blocks:
    """A page with a tab for each checkpoint, given with the name that it is shown by."""
    titles = [tab.title for _, tab in tabs]
    with gr.Blocks(title=title, analytics_enabled=False) as page:
        for name, tab in tabs:
            with gr.Tab(tab.title if titles.count(tab.title) == 1 else f"{tab.title}: {name}"):
                gr.Markdown(f"Model: `{name}`")
                _BUILDERS[type(tab)](tab)
    return page


def _fill(tab: FillTab) -> None:
    with gr.Row():
        phrase = gr.Textbox("the people of the _ states", label="Phrase with one blank, written _", scale=3)
        answer = gr.Textbox("", label="Answer to rank (may stay empty)")
        top_k = gr.Slider(1, min(50, tab.model.config.vocab_size), 5, step=1, label="Nearest words")
    button, note = gr.Button("Fill", variant="primary"), _note()
    table = gr.Dataframe(headers=["place", "token", "cosine", "score"], label="Nearest words", interactive=False)

    def ask(phrase: str, answer: str, top_k: int) -> tuple[list[list[str]], str]:
        found = tab.ask(phrase, answer, top_k)
        return found.rows, found.note

    gr.on([button.click, phrase.submit, answer.submit], ask, [phrase, answer, top_k], [table, note], **_ALONE)


def _generate(tab: GenerateTab) -> None:
    prompt = gr.Textbox("The capital of India is", label="Prompt", lines=2)
    sliders = _sliders(tab.decoding)
    with gr.Row():
        length = gr.Slider(1, 200, tab.decoding.max_new_tokens, step=1, label="New tokens, at most")
        seed = gr.Number(0, label="Seed", precision=0)
    button, note = gr.Button("Continue", variant="primary"), _note()
    with gr.Row():
        boxes = [_answer("Greedy"), _answer("Top-k")]
    with gr.Row():
        figures = [gr.Textbox(label=f"Counted: {kind}", interactive=False) for kind in ("greedy", "top-k")]

    def ask(
        prompt: str, top_k: int, temperature: float, penalty: float, length: int, seed: int
    ) -> tuple[str, str, str, str, str]:
        decoding = _decoding(tab.decoding, top_k, temperature, penalty)
        found: Continued = tab.ask(prompt, replace(decoding, max_new_tokens=int(length), seed=int(seed or 0)))
        return found.greedy, found.sampled, found.greedy_figures, found.sampled_figures, found.note

    inputs, outputs = [prompt, *sliders, length, seed], [*boxes, *figures, note]
    gr.on([button.click, prompt.submit], ask, inputs, outputs, **_ALONE)


def _chat(tab: ChatTab) -> None:
    turns = gr.State([])
    shown = gr.Chatbot(label="Conversation", height=320, buttons=["copy_all"])
    message = gr.Textbox(label="Message", placeholder="how are you?")
    mode = gr.Radio(MODES, value=MODES[0], label="How it answers")
    sliders = _sliders(tab.decoding)
    with gr.Row():
        button, again = gr.Button("Send", variant="primary"), gr.Button("New conversation")
    note = _note()
    candidates = gr.Textbox(label="Retrieved, with cosines", interactive=False, lines=5)

    def ask(
        message: str, turns: list[str], mode: str, top_k: int, temperature: float, penalty: float
    ) -> tuple[list[str], list[dict[str, str]], str, str, str]:
        said = tab.ask(message, turns, mode, _decoding(tab.decoding, top_k, temperature, penalty))
        kept = message if said.note.startswith("error") else ""
        return said.turns, _messages(said.turns), kept, said.note, said.candidates

    inputs, outputs = [message, turns, mode, *sliders], [turns, shown, message, note, candidates]
    gr.on([button.click, message.submit], ask, inputs, outputs, **_ALONE)
    gr.on([again.click, shown.clear], lambda: ([], [], "", "", ""), None, outputs)


def _video(tab: VideoTab) -> None:
    with gr.Row():
        number = gr.Number(0, label=f"Test clip, 0 to {tab.count - 1:,}", precision=0)
        mode = gr.Radio(FRAME_MODES, value="expectation", label="Frames")
        seed = gr.Number(0, label="Seed of sampled frames", precision=0)
    button, note = gr.Button("Predict", variant="primary"), _note()
    gr.Markdown("Truth, prediction and difference; a frame with a coloured edge is predicted.")
    # Labels and buttons would lie upon the first and the last frames.
    animation, still = (
        gr.Image(type="filepath", interactive=False, show_label=False, buttons=[]) for _ in ("moving", "every frame")
    )
    table = gr.Dataframe(headers=list(FIGURES), label="Of the predicted frames", interactive=False)

    def ask(number: int, mode: str, seed: int) -> tuple[str | None, str | None, list[list[str]], str]:
        found = tab.ask(-1 if number is None else number, mode, seed or 0)
        files = (None if path is None else str(path) for path in (found.animation, found.still))
        return *files, [list(found.figures)] if found.figures else [], found.note

    button.click(ask, [number, mode, seed], [animation, still, table, note], **_ALONE)


def _sliders(own: Decoding) -> list[gr.Slider]:
    with gr.Row():
        return [
            gr.Slider(0, 200, own.top_k, step=1, label="Top-k (0: all)"),
            gr.Slider(0.1, 2, own.temperature, step=0.05, label="Temperature"),
            gr.Slider(1, 2, own.repetition_penalty, step=0.05, label="Repetition penalty"),
        ]


def _decoding(own: Decoding, top_k: int, temperature: float, penalty: float) -> Decoding:
    return replace(own, top_k=int(top_k), temperature=float(temperature), repetition_penalty=float(penalty))


def _messages(turns: list[str]) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[at % 2], "content": turn} for at, turn in enumerate(turns)]


def _note() -> gr.Textbox:
    """Plain text: what a user wrote comes back in it."""
    return gr.Textbox(label="Note", interactive=False)


def _answer(label: str) -> gr.Textbox:
    return gr.Textbox(label=label, interactive=False, lines=6)


_BUILDERS = {FillTab: _fill, GenerateTab: _generate, ChatTab: _chat, VideoTab: _video}
