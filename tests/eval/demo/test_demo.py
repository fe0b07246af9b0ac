"""What the demo's tabs answer, and the Space that it writes; the page itself is driven by test_demo_page.py."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from eval.decoding.decoding import Decoding
from eval.demo.__main__ import main
from eval.demo.tabs import ChatTab, FillTab, GenerateTab, VideoTab, open_tab
from eval.fill_blank import fill_blank
from eval.generate import continue_prompt
from eval.replies.index import ReplyIndex
from tests.eval.causal_models import tiny_bpe, tiny_generator
from tests.eval.dialogue_models import PAIRS, tiny_checkpoint, tiny_words
from tests.eval.video_models import tiny_video_checkpoint
from training.common.errors import InputError

PHRASE, PROMPT = "the people of the _ states", "the people of the"


@pytest.fixture(scope="module")
def fill(checkpoint) -> FillTab:
    tab = open_tab(str(checkpoint))
    assert isinstance(tab, FillTab)
    return tab


@pytest.fixture(scope="module")
def generate(tmp_path_factory) -> GenerateTab:
    folder, tokenizer = tmp_path_factory.mktemp("generator"), tiny_bpe()
    tiny_generator(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    tab = open_tab(str(folder))
    assert isinstance(tab, GenerateTab)
    return tab


@pytest.fixture(scope="module")
def chat(tmp_path_factory) -> ChatTab:
    folder = tmp_path_factory.mktemp("dialogue")
    tab = open_tab(str(tiny_checkpoint(folder, tiny_words(), source=folder / "pairs.jsonl")))
    assert isinstance(tab, ChatTab)
    ReplyIndex.build(tab.model, tab.tokenizer, [reply for _, reply in PAIRS]).save(folder)
    return tab


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> VideoTab:
    tab = open_tab(str(tiny_video_checkpoint(tmp_path_factory.mktemp("video"))))
    assert isinstance(tab, VideoTab)
    return tab


def test_blank_is_filled_as_on_the_command_line(fill: FillTab) -> None:
    found = fill.ask(PHRASE, " united ", 3)
    expected = fill_blank(fill.model, fill.tokenizer, PHRASE, "united", 3)
    assert [row[1] for row in found.rows] == [guess.token for guess in expected.guesses]
    assert found.note.startswith(f"united: rank {expected.answer_rank} of {expected.vocab_size}, cosine")
    assert fill.ask(PHRASE, " ", 3).note == ""


def test_prompt_is_continued_greedily_beside_top_k_with_figures_of_both(generate: GenerateTab) -> None:
    decoding = Decoding(top_k=5, max_new_tokens=6, seed=3)
    found = generate.ask(PROMPT, decoding)
    greedy, sampled = continue_prompt(generate.model, generate.tokenizer, PROMPT, decoding)
    assert (found.greedy, found.sampled) == (greedy.text, sampled.text)
    assert "repeated" in found.greedy_figures
    assert found.note == ""


def test_sliders_start_where_the_checkpoint_says(generate: GenerateTab) -> None:
    assert (generate.decoding.top_k, generate.decoding.temperature) == (50, 0.7)


def test_conversation_goes_on_from_the_turns_that_are_given(chat: ChatTab) -> None:
    first = chat.ask("how are you ?", [], "greedy", chat.decoding)
    second = chat.ask("do you like music ?", first.turns, "retrieve", chat.decoding)
    assert first.turns[0] == "how are you ?"
    assert second.turns[:2] == first.turns
    assert second.turns[3] in [reply for _, reply in PAIRS]
    assert second.turns[3] in second.candidates.splitlines()[0]
    alone = chat.ask("do you like music ?", [], "retrieve", chat.decoding)
    assert alone.candidates != second.candidates
    assert chat.ask("how are you ?", [], "greedy", chat.decoding) == first


def test_clip_is_predicted_into_an_animation_a_still_and_figures(video: VideoTab) -> None:
    found = video.ask(2, "expectation")
    with Image.open(found.animation) as animation:
        assert animation.n_frames >= video.model.config.max_position_embeddings
    with Image.open(found.still) as still:
        assert still.width > still.height
    assert len(found.figures) == 4
    assert video.ask(3).figures != found.figures


def test_digits_that_are_not_here_are_replaced_and_said(video: VideoTab, tmp_path: Path) -> None:
    folder = tiny_video_checkpoint(tmp_path / "moved")
    run = json.loads((folder / "run.json").read_text())
    run["recipe"]["data"]["digits"] = str(tmp_path / "gone")
    (folder / "run.json").write_text(json.dumps(run))
    assert "these are builtin:digits" in open_tab(str(folder)).ask(0).note


def test_clips_of_ones_own_are_shown_those_held_out_alone(video: VideoTab, tmp_path: Path) -> None:
    clips = np.random.default_rng(0).integers(0, 255, (9, 8, 16, 16), dtype=np.uint8)
    np.save(tmp_path / "mine.npy", clips)
    folder = str(tiny_video_checkpoint(tmp_path / "run"))
    tab = open_tab(folder, clips=str(tmp_path / "mine.npy"))
    assert tab.count == 1
    assert tab.ask(0).figures != video.ask(0).figures
    assert tab.ask(1).note == "error: clip: got 1; use 0 to 0"
    with pytest.raises(InputError, match=r"clips: .*gone.npy does not exist"):
        open_tab(folder, clips=str(tmp_path / "gone.npy"))


def test_bad_input_is_one_line_and_leaves_the_conversation(
    fill: FillTab, generate: GenerateTab, chat: ChatTab, video: VideoTab
) -> None:
    turns = ["how are you ?", "i am fine , thank you ."]
    answers = {
        "must hold exactly one blank": fill.ask("no blank here"),
        "outside the vocabulary": fill.ask(PHRASE, "zebra"),
        "prompt is empty": generate.ask(" ", Decoding()),
        "temperature must be above 0": generate.ask(PROMPT, Decoding(temperature=0)),
        "message is empty": chat.ask(" ", turns, "greedy", Decoding()),
        "clip: got -1": video.ask(-1),
    }
    for message, answer in answers.items():
        assert message in answer.note
        assert answer.note.startswith("error: ")
        assert "\n" not in answer.note
    assert answers["message is empty"].turns == turns


def test_a_folder_that_is_no_checkpoint_ends_with_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no checkpoint"):
        open_tab(str(tmp_path))


# ---- a Space ----


def test_space_holds_the_application_and_a_front_matter_that_starts_it(tmp_path: Path, capsys) -> None:
    assert main(["user/sotu-text-jepa", "user/talk", "--space", str(tmp_path / "space")]) == 0
    space = tmp_path / "space"
    front = yaml.safe_load((space / "README.md").read_text().split("---")[1])
    assert front["sdk"] == "gradio"
    assert front["app_file"] == "app.py"
    assert front["models"] == ["user/sotu-text-jepa", "user/talk"]
    compile((space / "app.py").read_text(), "app.py", "exec")
    assert (space / "eval" / "demo" / "make.py").is_file()
    assert (space / "modeling_jepa" / "layers.py").is_file()
    assert any(line.startswith("transformers") for line in (space / "requirements.txt").read_text().splitlines())
    assert not list(space.rglob("*.pyc"))


def test_space_of_a_folder_or_into_a_full_place_is_one_line(tmp_path: Path, checkpoint: Path, capsys) -> None:
    assert main([str(checkpoint), "--space", str(tmp_path / "space")]) == 2
    assert "is no repository of the Hub" in capsys.readouterr().err
    shutil.copy(checkpoint / "config.json", tmp_path)
    assert main(["user/talk", "--space", str(tmp_path)]) == 2
    error = capsys.readouterr().err.strip()
    assert error == f"error: space: {tmp_path} is not empty; give a new folder"
