"""The doctor's look at a video model: a healthy one gets no fail, each planted fault its name."""

import copy
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import ModelOutput

from eval.diagnose import diagnose
from eval.diagnose.__main__ import main
from eval.diagnose.examine import GROUPS
from eval.diagnose.opening import make_subject
from eval.diagnose.video.checks import CHECKS
from eval.diagnose.video.subject import VIDEO
from tests.diagnose import family_faults as faults
from tests.diagnose.cases import Case
from tests.diagnose.tiny_clips import ClipLesson, clips, learn_clips, trainer_of, untrained_video
from training.common.errors import InputError

pytestmark = pytest.mark.xdist_group("video doctor")
CHEAP = tuple(group for group in GROUPS if group != "memorise")


@pytest.fixture(scope="module")
def trained() -> PreTrainedModel:
    """A tiny model that knows a little of moving digits."""
    return learn_clips(ClipLesson())


@pytest.fixture
def model(trained: PreTrainedModel) -> PreTrainedModel:
    """The same, free to be changed."""
    return copy.deepcopy(trained)


def copies_the_last_frame(model: PreTrainedModel) -> PreTrainedModel:
    """Whatever is hidden, it answers with the last codes that it was shown."""
    base = type(model)

    def forward(self: Any, codes: Tensor, hidden: Tensor, **given: Any) -> ModelOutput:
        output = base.forward(self, codes=codes, hidden=hidden, **given)
        known = int((~hidden[0]).all(-1).all(-1).sum())
        last = codes[:, known - 1 : known].expand_as(codes)
        output.logits = output.logits + 50.0 * torch.nn.functional.one_hot(last, output.logits.shape[-1])
        return output

    model.__class__ = type(f"Own{base.__name__}", (base,), {"forward": forward, "__module__": __name__})
    return model


def test_a_healthy_model_gets_no_fail_and_a_picture_of_its_clips(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    arguments = ["--json", str(tmp_path / "r.json"), "--html", str(tmp_path / "r.html"), "--data", "builtin:digits"]
    assert main([str(tmp_path / "model"), "--device", "cpu", *arguments]) == 0
    report = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert report["kind"] == VIDEO
    assert {finding["verdict"] for finding in report["findings"]} <= {"pass", "note"}
    assert {"leak.future_frames", "memorise.clip", "data.codes"} <= {found["check"] for found in report["findings"]}
    assert "data:image/png;base64," in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_an_untrained_model_is_called_untrained_and_nothing_else():
    found = Case(untrained_video(ClipLesson()), None, None).examine(only=CHEAP).fails()
    assert found == {"distribution.untrained"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (faults.sees_the_future, "leak.future_frames"),
        (faults.sees_one_frame_ahead, "leak.future_frames"),
        (faults.reads_what_is_hidden, "leak.hidden_codes"),
        (faults.mixes_clips, "leak.batch_mates"),
        (faults.counts_from_zero, "leak.cache"),
        (faults.forgets_frames, "leak.position_ignored"),
        (faults.shuffles_its_codes, "parity.code_table"),
        (faults.shuffles_and_forgets, "parity.code_table"),
        (faults.takes_other_codes, "parity.code_table"),
        (faults.makes_codes_alike, "parity.code_table"),
        (faults.counts_all_places, "parity.own_loss"),
        (faults.drops_always, "parity.random_in_evaluation"),
        (faults.head_says_one_thing, "collapse.predictions"),
        (faults.rows_fall_together, "collapse.predictions"),
        (faults.zeroes_a_layer, "gradient.flow"),
        (faults.detaches_a_branch, "gradient.flow"),
        (faults.holds_a_nan, "gradient.non_finite"),
        (copies_the_last_frame, "distribution.copies_last"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_fault_in_the_model_is_named(model, change, expected):
    only = (expected.split(".")[0],)
    assert expected in Case(change(model), None, None).examine(only=only).fails()


def test_labels_at_visible_places_are_named(model, tmp_path):
    for labels, wrong in (("everywhere", {"data.visible_positions"}), ("hidden", set())):
        trainer = trainer_of(model, replace(ClipLesson(), labels=labels), tmp_path)
        assert Case(model, None, None, trainer=trainer).examine(only=("data",)).fails() == wrong


def test_clips_may_be_handed_over_and_decide_what_is_seen(model):
    frames = clips("valid", 6, model.config)
    report = diagnose(model, None, data=frames, only=("data",))
    assert (report.data, report.fails()) == ("clips that were handed over", set())
    assert len(make_subject(model, None, data=frames).sample.codes) == 6


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (torch.zeros(2, 8, 1, 16, 16), "data: frames has shape"),
        (torch.full((2, 8, 1, 32, 32), 7.0), "data: frames goes from"),
        (torch.zeros(2, 3, 1, 32, 32), "data: got 2 clips of 3 frames"),
        (["some text"], "data: got list"),
        ("no/such/folder", "digits: 'no/such/folder'"),
    ],
    ids=["size", "range", "too short", "text", "no folder"],
)
def test_clips_that_cannot_be_used_are_one_clear_line(model, data, said):
    with pytest.raises(InputError) as raised:
        make_subject(model, None, data=data)
    assert str(raised.value).startswith(said)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["npy", "gifs"])
def test_a_users_own_clips_are_what_is_looked_at(model, tmp_path, capsys, kind):
    model.save_pretrained(tmp_path / "model")
    given = (clips("train", 30, model.config)[:, :, 0] * 255).round().byte().numpy()
    if kind == "npy":
        np.save(tmp_path / "mine.npy", given)
    else:
        for number, clip in enumerate(given):
            frames = [Image.fromarray(frame) for frame in clip]
            frames[0].save(tmp_path / f"{number}.gif", save_all=True, append_images=frames[1:])
    source = tmp_path / "mine.npy" if kind == "npy" else tmp_path
    flags = ["--clips", str(source), "--only", "data", "leak", "parity", "--json", str(tmp_path / "r.json")]
    assert main([str(tmp_path / "model"), "--device", "cpu", *flags]) == 0, capsys.readouterr().out
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["data"] == f"the clips of {source}"
    overlap = next(one for one in report["findings"] if one["check"] == "data.overlap")
    assert overlap["evidence"]["clips_train"] + overlap["evidence"]["clips_test"] < 30
    assert overlap["evidence"]["test_in_training"] == 0


def test_of_few_clips_those_of_valid_are_looked_at_too(model, tmp_path):
    np.save(tmp_path / "mine.npy", (clips("train", 9, model.config)[:, :, 0] * 255).byte().numpy())
    subject = make_subject(model, None, data=str(tmp_path / "mine.npy"))
    assert len(subject.sample.frames) == 2
    assert not torch.equal(*subject.sample.frames)


def test_flags_of_text_are_refused(model, tmp_path, capsys):
    model.save_pretrained(tmp_path)
    assert main([str(tmp_path), "--text_column", "text"]) == 2
    assert main([str(tmp_path), "--tokenizer", str(tmp_path)]) == 2
    assert [line.split(":")[:2] for line in capsys.readouterr().err.splitlines()] == [
        ["error", " text_column"],
        ["error", " tokenizer"],
    ]


def test_the_model_is_left_as_it_was(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    Case(model, None, None).examine(only=("gradient", "parity", "sampling"))
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_every_check_of_its_own_is_of_a_group_and_for_video():
    assert {check.group for check in CHECKS} <= set(GROUPS)
    assert {check.kinds for check in CHECKS} == {(VIDEO,)}


def test_another_seed_looks_at_other_clips(model):
    first, second, again = (make_subject(model, None) for _ in range(3))
    second.turn(3)
    again.turn(0)
    assert torch.equal(first.sample.codes, again.sample.codes)
    assert not torch.equal(first.sample.codes, second.sample.codes)
