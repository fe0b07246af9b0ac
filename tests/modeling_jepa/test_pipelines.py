"""The pipelines `reply` and `frame-prediction`: what they take and answer, on both roads of loading."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoConfig, pipeline

from eval.replies.saying import read_turns, say
from modeling_jepa import FramePredictionPipeline, ReplyPipeline
from tests.clean_process import run_clean
from tests.eval.dialogue_models import CONTEXT, tiny_checkpoint, tiny_words
from tests.eval.video_models import tiny_video_checkpoint

SCRIPT = Path(__file__).with_name("pipelines_without_packages.py")
MESSAGE = "how are you ?"
TURNS = (MESSAGE, "i am fine , thank you .", "do you like music ?")
CLIP = torch.linspace(0, 1, 4 * 16 * 16).view(4, 16, 16)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    tiny_checkpoint(folder / "dialogue", tiny_words())
    tiny_video_checkpoint(folder / "video")
    return folder


@pytest.fixture(scope="module")
def reply(checkpoints) -> ReplyPipeline:
    return pipeline("reply", model=str(checkpoints / "dialogue"), device="cpu")


@pytest.fixture(scope="module")
def predict(checkpoints) -> FramePredictionPipeline:
    return pipeline("frame-prediction", model=str(checkpoints / "video"), device="cpu")


def context_of(turns, reply) -> list[int]:
    return read_turns(list(turns), reply.model, reply.tokenizer).ids


def greedy(turns, reply) -> str:
    return say(reply.model, reply.tokenizer, [context_of(turns, reply)])[0]


@pytest.mark.parametrize(
    "turns",
    [(MESSAGE,), TURNS, TURNS * 4, ("how  are\nyou ?",), ("is [MASK] or [EOS] you ?",)],
    ids=["message", "turns", "too long", "spaces", "special"],
)
def test_a_conversation_is_read_as_it_was_in_training(reply, turns):
    given = reply.preprocess(turns)["input_ids"][0].tolist()
    assert given == context_of(turns, reply)
    assert len(given) <= CONTEXT


def test_a_reply_is_what_the_model_says(reply):
    assert reply(MESSAGE, do_sample=False) == [{"reply": greedy([MESSAGE], reply)}]
    assert greedy([MESSAGE], reply) != greedy(TURNS, reply)  # or the next lines could not fail
    expected = [{"reply": greedy(TURNS, reply)}]
    roles = ("user", "assistant") * len(TURNS)
    chat = [{"role": role, "content": turn} for role, turn in zip(roles, TURNS, strict=False)]
    chat = [{"role": "system", "content": "be kind ."}, *chat]
    assert reply(TURNS, do_sample=False) == expected
    assert reply([list(TURNS)], do_sample=False) == [expected]
    assert reply(chat, do_sample=False) == expected
    assert reply(TURNS, do_sample=False, context_turns=1) == [{"reply": greedy(TURNS[-1:], reply)}]


def test_several_messages_give_one_answer_each_whatever_the_batch(reply):
    messages = [MESSAGE, "where do you live ?", "thank you very much ."]
    expected = [[{"reply": greedy([message], reply)}] for message in messages]
    assert reply(messages, do_sample=False) == expected
    assert reply(messages, do_sample=False, batch_size=3) == expected


def test_several_replies_to_one_message_are_drawn(reply):
    drawn = reply(MESSAGE, num_return_sequences=4)
    assert len({one["reply"] for one in drawn}) > 1
    assert len(drawn) == 4


@pytest.mark.parametrize(
    ("inputs", "settings", "named"),
    [
        ("  ", {}, "at least one turn"),
        ((), {}, "at least one turn"),
        ([], {}, r"inputs is \[\]: give a message"),
        (None, {}, "inputs is None: give a message"),
        (3, {}, "inputs is 3: give a message"),
        ((MESSAGE, 3), {}, "a turn is 3"),
        ([3], {}, "a turn is 3"),
        ({"role": "user"}, {}, "a turn is {'role'"),
        (MESSAGE, {"context_turns": 0}, "context_turns=0"),
        (MESSAGE, {"tempature": 1.0}, "tempature"),
    ],
)
def test_bad_conversations_and_settings_are_refused_by_name(reply, inputs, settings, named):
    with pytest.raises(ValueError, match=named):
        reply(inputs, **settings)


def test_predicted_frames_are_the_models(predict):
    expected = predict.model.predict_frames(CLIP[None, :, None], 2, mode="argmax")[0]
    assert torch.equal(predict(CLIP, num_frames=2, mode="argmax"), expected)
    assert torch.equal(predict(CLIP.numpy(), num_frames=2, mode="argmax"), expected)
    assert torch.equal(predict(CLIP[:, None], num_frames=2, mode="argmax"), expected)
    assert torch.equal(predict(list(CLIP), num_frames=2, mode="argmax"), expected)


def test_several_clips_give_one_answer_each(predict):
    clips = torch.stack([CLIP, CLIP.flip(0)])[:, :, None]
    expected = predict.model.predict_frames(clips, 3, mode="argmax")
    for given in (clips, list(clips), [clip.numpy() for clip in clips]):
        assert torch.equal(torch.stack(predict(given, num_frames=3, mode="argmax")), expected)


def test_bytes_pictures_and_an_animation_are_the_same_clip(predict, tmp_path):
    levels = np.random.default_rng(0).integers(0, 256, (4, 16, 16), dtype=np.uint8)
    pictures = [Image.fromarray(frame) for frame in levels]
    pictures[0].save(tmp_path / "clip.gif", save_all=True, append_images=pictures[1:])
    expected = predict(torch.as_tensor(levels).float() / 255, mode="argmax")
    assert expected.std() > 0
    for given in (levels, pictures, tmp_path / "clip.gif", str(tmp_path / "clip.gif")):
        assert torch.equal(predict(given, mode="argmax"), expected)


def test_pictures_are_brought_to_the_models_size(predict):
    large = [Image.fromarray(np.full((40, 30), level, dtype=np.uint8)) for level in (0, 255)]
    assert torch.equal(predict.preprocess(large)["frames"][0, :, 0, 3, 3], torch.tensor([0.0, 1.0]))


def test_a_seed_decides_what_is_drawn(predict):
    drawn = [predict(CLIP, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize(
    ("clip", "settings", "named"),
    [
        (CLIP * 2, {}, "from 0 to 2"),
        (CLIP[:, :8], {}, "takes"),
        (CLIP[0], {}, "a clip has shape"),
        ((CLIP * 255).long(), {}, "int64"),
        ("nowhere.gif", {}, "nowhere.gif cannot be read"),
        (CLIP, {"frames": 3}, "frames is no setting"),
        (CLIP, {"num_frames": 40}, "num_frames=40"),
    ],
)
def test_bad_clips_and_settings_are_refused_by_name(predict, clip, settings, named):
    with pytest.raises(ValueError, match=named):
        predict(clip, **settings)


def test_a_model_of_another_family_is_refused(reply, predict):
    with pytest.raises(ValueError, match="video_jepa model"):
        ReplyPipeline(predict.model, reply.tokenizer)
    with pytest.raises(ValueError, match="dialogue_jepa model"):
        FramePredictionPipeline(reply.model)


def test_the_configuration_names_them_and_loads_again(checkpoints):
    for kind, task in (("dialogue", "reply"), ("video", "frame-prediction")):
        written = json.loads((checkpoints / kind / "config.json").read_text())["custom_pipelines"]
        assert list(written) == [task]
        assert (checkpoints / kind / (written[task]["impl"].split(".")[0] + ".py")).is_file()
        config = AutoConfig.from_pretrained(checkpoints / kind)
        assert config.custom_pipelines == {}  # or the library would ask to trust code that is installed
        assert config.to_dict()["custom_pipelines"] == written


def test_strangers_get_the_same_answers_and_so_do_those_they_save_for(checkpoints, reply, predict, tmp_path):
    answers = tmp_path / "answers.safetensors"
    child = run_clean([str(SCRIPT), str(checkpoints), str(answers)], cwd=tmp_path, modules=tmp_path / "modules")
    assert child.returncode == 0, child.stderr
    told = json.loads(child.stdout.splitlines()[-1])
    assert told["tasks"] == ["reply", "frame-prediction"]
    assert set(told["modules"]) == {"transformers_modules"}
    expected = reply([MESSAGE, [MESSAGE, "fine", "where ?"]], do_sample=False)
    assert told["said"] == {"first": expected, "again": expected}
    frames = load_file(answers)
    for name in ("first", "again"):
        assert torch.equal(frames[name], predict(CLIP, mode="sample", seed=5))
