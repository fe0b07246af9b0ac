"""The video model: codes and frames, what sees what, decoding, both roads of loading."""

import itertools
import json
import os
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file
from transformers import AutoModel, EvalPrediction, Trainer, TrainingArguments
from transformers.cache_utils import DynamicCache

from configuration_jepa import VideoJepaConfig
from modeling_jepa import VideoJepaForFramePrediction
from modeling_jepa.frame_decoding import draw_codes
from tests.clean_process import run_clean

VARIANTS = {
    "patch": {"frame_size": 16, "patch_size": 8, "code_size": 4, "vocab_size": 19},
    "grey": {"frame_size": 8, "patch_size": 4, "code_size": 1, "vocab_size": 16, "frame_codes": "grey"},
    "softmax": {
        "frame_size": 16,
        "patch_size": 4,
        "code_size": 4,
        "vocab_size": 19,
        "head": "softmax",
        "latent_size": None,
        "predictor_layers": 1,
    },
}
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def video(variant: str = "patch", **changes) -> VideoJepaForFramePrediction:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 8}
    sizes |= {"latent_size": 16}
    return VideoJepaForFramePrediction(VideoJepaConfig(**{**sizes, **VARIANTS[variant], **changes})).eval()


def clips(config: VideoJepaConfig, count: int = 3, length: int = 5, seed: int = 0) -> torch.Tensor:
    """Frames of noise."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, length, 1, config.frame_size, config.frame_size, generator=generator)


def learning(model: VideoJepaForFramePrediction, count: int = 3, view: int = 0, seed: int = 0) -> dict:
    """Codes of which the last two frames and some others are to be predicted."""
    codes = model.model.codes.encode(clips(model.config, count, seed=seed))
    hidden = torch.rand(codes.shape, generator=torch.Generator().manual_seed(seed)) < 0.2
    hidden[:, -2:] = True
    return {
        "codes": codes,
        "labels": codes.masked_fill(~hidden, -100),
        "time_view": torch.full((count,), view),
    }


# ---- frames and codes ----


@every_variant
def test_a_square_is_the_code_with_the_nearest_picture(variant: str) -> None:
    model = video(variant)
    config, values = model.config, model.model.codes.values
    frames = clips(config)
    codes = model.model.codes.encode(frames)
    side, code = config.frame_size // config.patch_size, config.code_size
    for token in range(config.tokens_per_frame):
        for inner in range(config.codes_per_token):
            along = config.patch_size // code
            row = (token // side) * config.patch_size + (inner // along) * code
            column = (token % side) * config.patch_size + (inner % along) * code
            square = frames[1, 2, 0, row : row + code, column : column + code].reshape(-1)
            assert codes[1, 2, token, inner] == (values - square).pow(2).sum(1).argmin()


@every_variant
def test_coding_a_decoded_frame_gives_the_same_codes(variant: str) -> None:
    codes = video(variant).model.codes
    coded = codes.encode(clips(codes.config))
    assert torch.equal(codes.encode(codes.decode(coded)), coded)


def test_many_squares_are_coded_in_pieces_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = video().model.codes
    whole = codes.encode(clips(codes.config))
    monkeypatch.setattr("modeling_jepa.frame_codes._SQUARES_AT_ONCE", 7)
    assert torch.equal(codes.encode(clips(codes.config)), whole)


def test_grey_levels_are_equal_steps_and_lose_at_most_half_a_step() -> None:
    codes = video("grey").model.codes
    frames = clips(codes.config)
    assert (codes.decode(codes.encode(frames)) - frames).abs().max() <= 0.5 / 15 + 1e-6


def test_the_expected_frame_of_a_sure_guess_is_the_decoded_one() -> None:
    codes = video().model.codes
    coded = codes.encode(clips(codes.config))
    sure = torch.nn.functional.one_hot(coded, codes.config.vocab_size).float()
    torch.testing.assert_close(codes.expected(sure), codes.decode(coded))


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        (torch.zeros(2, 3, 1, 16, 12), r"\(2, 3, 1, 16, 12\).*16, 16"),
        (torch.zeros(2, 3, 16, 16), r"\(2, 3, 16, 16\)"),
        (torch.zeros(2, 3, 1, 16, 16, dtype=torch.uint8), "uint8.*floating"),
        (torch.full((2, 3, 1, 16, 16), 255.0), "from 255 to 255.*0 .black. to 1"),
        (torch.full((2, 3, 1, 16, 16), -0.1), "from -0.1"),
        (torch.full((2, 3, 1, 16, 16), float("nan")), "nan"),
    ],
)
def test_frames_of_a_wrong_shape_type_or_range_are_refused_by_name(frames: torch.Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        video()(frames=frames)


@pytest.mark.parametrize(("code", "said"), [(19, "holds 19: codes go from 0 to 18"), (-1, "holds -1")])
def test_a_code_out_of_range_is_refused(code: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        video().model.codes.decode(torch.full((1, 1, 4, 4), code))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"frame_size": 17}, "patch_size=8.*divisor of frame_size=17"),
        ({"code_size": 3}, "code_size=3.*divisor of patch_size=8"),
        ({"frame_codes": "grey"}, "code_size=4.*1 with frame_codes='grey'"),
        ({"frame_codes": "vq"}, "frame_codes='vq'.*patch, grey"),
        ({"vocab_size": 1}, "vocab_size=1"),
        ({"hidden_size": 36}, "hidden_size=36"),
        ({"temperature": 0}, "temperature=0"),
        ({"latent_size": 0}, "latent_size=0"),
        ({"label_smoothing": 1.0}, "label_smoothing=1.0"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused_by_name(changes: dict, said: str) -> None:
    with pytest.raises(StrictDataclassError, match=said):
        video(**changes)


# ---- what sees what ----


@pytest.mark.parametrize(("view", "seen"), [(0, "past"), (1, "all"), (2, "own")])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_a_frame_sees_what_its_view_allows_and_no_more(view: int, seen: str, implementation: str) -> None:
    model = video(attn_implementation=implementation)
    embedded = {}
    model.model.embed_pixels.register_forward_hook(lambda *given: embedded.update(pixels=given[2].requires_grad_()))
    codes = model.model.codes.encode(clips(model.config))
    logits = model(codes=codes, time_view=torch.full((3,), view)).logits
    for frame in range(5):
        reached = torch.autograd.grad(logits[:, frame].sum(), embedded["pixels"], retain_graph=True)[0]
        depends = reached.abs().amax((0, 2, 3)) > 0
        allowed = {"past": range(frame + 1), "all": range(5), "own": [frame]}[seen]
        assert depends.tolist() == [other in allowed for other in range(5)]


def test_clips_of_one_batch_may_have_different_views_and_do_not_see_each_other() -> None:
    model = video()
    codes = model.model.codes.encode(clips(model.config))
    views = torch.tensor([0, 1, 2])
    together = model(codes=codes, time_view=views).logits
    for index in range(3):
        alone = model(codes=codes[index : index + 1], time_view=views[index : index + 1]).logits
        torch.testing.assert_close(together[index : index + 1], alone, atol=1e-5, rtol=0)


@every_variant
def test_what_stands_at_a_hidden_place_makes_no_difference(variant: str) -> None:
    model = video(variant)
    inputs = learning(model)
    other = {**inputs, "codes": torch.where(inputs["labels"] != -100, 3, inputs["codes"])}
    assert torch.equal(model(**inputs).logits, model(**other).logits)


def test_a_hidden_code_differs_from_a_black_one() -> None:
    model = video()
    model.set_frame_codes(torch.cat((torch.zeros(1, 16), torch.rand(18, 16))))
    codes = torch.zeros(1, 2, 4, 4, dtype=torch.int64)
    hidden = torch.zeros_like(codes, dtype=torch.bool)
    hidden[0, 1] = True
    assert not torch.allclose(model(codes=codes).logits, model(codes=codes, hidden=hidden).logits)


@every_variant
def test_the_loss_is_of_hidden_places_alone(variant: str) -> None:
    model = video(variant)
    inputs = learning(model)
    holes = inputs["labels"] != -100
    output = model(**inputs)
    dense = model(codes=inputs["codes"], hidden=holes).logits
    torch.testing.assert_close(output.logits, dense[holes], atol=1e-5, rtol=1e-5)
    losses = torch.nn.functional.cross_entropy(dense[holes], inputs["codes"][holes])
    torch.testing.assert_close(output.loss, losses)
    assert output.loss_parts["prediction"][1] == holes.sum()


def test_the_loss_is_a_share_of_the_windows_mean() -> None:
    model = video()
    inputs = learning(model)
    items = int((inputs["labels"] != -100).sum())
    pieces = [model(**{n: t[i : i + 1] for n, t in inputs.items()}, num_items_in_batch=items).loss for i in range(3)]
    assert float(sum(pieces).detach()) == pytest.approx(model(**inputs).loss.item(), abs=1e-5)


@every_variant
def test_every_parameter_gets_a_gradient(variant: str) -> None:
    model = video(variant).train()
    model(**learning(model)).loss.backward()
    idle = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert not idle


@every_variant
def test_one_clip_is_memorised(variant: str) -> None:
    model = video(variant, dropout=0.0).train()
    inputs = learning(model, count=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    for _ in range(200):
        optimizer.zero_grad()
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
    assert loss < 0.1


def test_gradient_checkpointing_and_bf16_change_little() -> None:
    model = video(dropout=0.0)
    inputs = learning(model)
    plain = model(**inputs)
    model.train()
    model.gradient_checkpointing_enable()
    torch.testing.assert_close(model(**inputs).loss, plain.loss)
    half = video(dropout=0.0).to(torch.bfloat16)
    assert float((half(**inputs).logits.float() - plain.logits).abs().max()) < 0.1


def test_hidden_states_and_attentions_come_on_request() -> None:
    model = video(attn_implementation="eager")
    output = model(frames=clips(model.config), output_hidden_states=True, output_attentions=True)
    assert [tuple(states.shape) for states in output.hidden_states] == [(3, 5, 4, 32)] * 3
    assert [tuple(weights.shape) for weights in output.attentions] == [(12, 2, 5, 5), (15, 2, 4, 4)] * 2


def test_places_are_told_apart_by_their_distance_along_rows_and_columns() -> None:
    """The rotations of two places differ by their rows' and columns' distances alone."""
    model = video(frame_size=32)
    cos, sin = model.model._positions(torch.arange(2), torch.float32)[1]

    def turned(place: int, vector: torch.Tensor) -> torch.Tensor:
        first, second = vector.chunk(2)
        return vector * cos[0, place] + torch.cat((-second, first)) * sin[0, place]

    query, key = torch.randn(16), torch.randn(16)
    here = turned(5, query) @ turned(2, key)  # row 1 column 1, row 0 column 2 of 4 x 4
    torch.testing.assert_close(turned(14, query) @ turned(11, key), here, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(turned(6, query) @ turned(2, key), here)
    assert not torch.allclose(turned(9, query) @ turned(2, key), here)


# ---- decoding ----


@pytest.mark.parametrize("mode", ["sample", "argmax", "expectation"])
def test_predicted_frames_have_the_shape_and_range_of_frames(mode: str) -> None:
    model = video()
    predicted = model.predict_frames(clips(model.config), mode=mode)
    assert predicted.shape == (3, 3, 1, 16, 16)
    assert predicted.dtype == torch.float32
    assert 0 <= predicted.min() <= predicted.max() <= 1


def test_frames_that_were_read_before_need_not_be_read_again() -> None:
    model = video()
    codes = model.model.codes.encode(clips(model.config))
    cache = DynamicCache(config=None)
    pieces = [model(codes=codes[:, part], past_key_values=cache).logits for part in (slice(0, 3), slice(3, 5))]
    torch.testing.assert_close(torch.cat(pieces, 1), model(codes=codes).logits, atol=1e-5, rtol=0)


def test_the_best_codes_are_those_of_the_whole_clip_read_anew_for_every_frame() -> None:
    model = video()
    frames = clips(model.config, length=4)
    codes = model.model.codes.encode(frames)
    for _ in range(3):
        blank = torch.zeros_like(codes[:, :1])
        hidden = torch.zeros_like(torch.cat((codes, blank), 1), dtype=torch.bool)
        hidden[:, -1] = True
        best = model(codes=torch.cat((codes, blank), 1), hidden=hidden).logits[:, -1:].argmax(-1)
        codes = torch.cat((codes, best), 1)
    expected = model.model.codes.decode(codes[:, 4:])
    assert torch.equal(model.predict_frames(frames, 3, steps=1, mode="argmax"), expected)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_code_that_was_revealed_never_changes_and_all_are_revealed(
    steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = video("grey")
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    plain = model.model.forward

    def watched(codes, hidden=None, *given, **named):
        if hidden is not None:
            seen.append((codes.clone(), hidden.clone()))
        return plain(codes, hidden, *given, **named)

    monkeypatch.setattr(model.model, "forward", watched)
    predicted = model.predict_frames(clips(model.config), 1, steps=steps)
    seen.append((model.model.codes.encode(predicted), torch.zeros_like(seen[0][1])))
    for (codes, hidden), (later, still) in itertools.pairwise(seen):
        assert torch.equal(codes[~hidden], later[~hidden])
        assert not (still & ~hidden).any()
        assert still.sum() < hidden.sum()
    assert len(seen) == steps + 1


def test_samples_follow_their_generator_and_differ_without_it() -> None:
    model = video()
    frames = clips(model.config)
    drawn = [model.predict_frames(frames, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_codes_are_drawn_from_the_best_ones_alone() -> None:
    logits = torch.tensor([[0.0, 3.0, 2.0, -1.0]]).expand(500, 4)
    assert set(draw_codes(logits, 1.0, 2).tolist()) == {1, 2}
    assert set(draw_codes(logits, 0.01, None).tolist()) == {1}
    assert set(draw_codes(logits, 0, 4).tolist()) == {1}


def test_the_expectation_is_the_mean_over_the_codes_in_one_pass() -> None:
    model = video()
    frames = clips(model.config, length=4)
    codes = model.model.codes.encode(frames)
    future = torch.zeros_like(codes[:, :2])
    hidden = torch.cat((torch.zeros_like(codes), torch.ones_like(future)), 1).bool()
    logits = model(codes=torch.cat((codes, future), 1), hidden=hidden).logits[:, 4:]
    expected = model.model.codes.assemble(logits.softmax(-1) @ model.model.codes.values)
    torch.testing.assert_close(model.predict_frames(frames, 2, mode="expectation"), expected)


def test_prediction_leaves_training_mode_as_it_was_and_has_no_dropout() -> None:
    model = video(dropout=0.5).train()
    frames = clips(model.config)
    first = model.predict_frames(frames, mode="argmax")
    assert model.training
    assert torch.equal(first, model.predict_frames(frames, mode="argmax"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"frames": 1}, "1 frame.*at least 2"),
        ({"num_frames": 4}, "num_frames=4 after 5 frames.*8 frames in all"),
        ({"frames": 8}, "num_frames=0 after 8 frames"),
        ({"num_frames": 0}, "num_frames=0"),
        ({"steps": 0}, "steps=0"),
        ({"temperature": 0}, "temperature=0.*argmax"),
        ({"top_k": 0}, "top_k=0"),
        ({"mode": "best"}, "mode='best'.*sample, argmax, expectation"),
    ],
)
def test_what_cannot_be_predicted_is_refused_by_name(given: dict, said: str) -> None:
    model = video()
    frames = clips(model.config, length=given.pop("frames", 5))
    with pytest.raises(ValueError, match=said):
        model.predict_frames(frames, **given)


def test_more_frames_than_the_model_has_places_for_are_refused() -> None:
    model = video()
    with pytest.raises(ValueError, match="9 frames are more than max_position_embeddings=8"):
        model(frames=clips(model.config, length=9))


# ---- loading ----


@every_variant
def test_the_auto_class_opens_a_checkpoint_bitwise_with_its_codes(variant: str, tmp_path: Path) -> None:
    model = video(variant)
    if variant != "grey":
        model.set_frame_codes(torch.rand_like(model.model.codes.values))
    model.set_token_counts(torch.arange(model.config.vocab_size))
    model.save_pretrained(tmp_path)
    opened, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(opened) is VideoJepaForFramePrediction
    assert not any(info.values()), info
    frames = clips(model.config)
    assert torch.equal(opened(frames=frames).logits, model(frames=frames).logits)
    assert torch.equal(opened.token_counts, model.token_counts)
    assert torch.equal(opened.predict_frames(frames, mode="argmax"), model.predict_frames(frames, mode="argmax"))
    assert not [name for name in os.listdir(tmp_path) if name.endswith((".bin", ".pt", ".pkl"))]


def test_a_checkpoint_opens_and_predicts_where_the_packages_are_not(tmp_path: Path) -> None:
    model = video()
    frames = clips(model.config)
    model.save_pretrained(tmp_path / "model")
    save_file({"frames": frames}, tmp_path / "frames.safetensors")
    code = (
        "import sys; import json; from safetensors.torch import load_file, save_file;"
        "from transformers import AutoModel; frames = load_file('frames.safetensors')['frames'];"
        "model = AutoModel.from_pretrained('model', trust_remote_code=True);"
        "said = {mode: model.predict_frames(frames, mode=mode) for mode in ('argmax', 'expectation')};"
        "model.save_pretrained('again'); save_file(said, 'out.safetensors'); print(json.dumps(type(model).__module__))"
    )
    child = run_clean(["-c", code], cwd=tmp_path, modules=tmp_path / "modules")
    assert child.returncode == 0, child.stderr
    assert json.loads(child.stdout.splitlines()[-1]).startswith("transformers_modules.")
    for mode, predicted in load_file(tmp_path / "out.safetensors").items():
        assert torch.equal(predicted, model.predict_frames(frames, mode=mode))
    again = AutoModel.from_pretrained(tmp_path / "again")
    assert torch.equal(again(frames=frames).logits, model(frames=frames).logits)


def test_counts_start_the_bias_at_the_codes_frequencies() -> None:
    model = video()
    counts = torch.arange(19)
    model.set_token_counts(counts)
    torch.testing.assert_close(model.head.decoder.bias.softmax(0), (counts + 1.0) / (counts + 1.0).sum())
    with pytest.raises(ValueError, match=r"counts has shape \(3,\)"):
        model.set_token_counts(torch.zeros(3))
    with pytest.raises(ValueError, match="values has shape"):
        model.set_frame_codes(torch.zeros(3, 16))


# ---- stock roads ----


def test_weights_on_disk_change_no_answer(tmp_path) -> None:
    model = video()
    model.save_pretrained(tmp_path)
    opened = AutoModel.from_pretrained(tmp_path, device_map={"": "disk"}, offload_folder=tmp_path / "disk")
    frames = clips(model.config)
    with torch.no_grad():
        torch.testing.assert_close(opened(frames).logits, model(frames).logits, atol=1e-6, rtol=0)


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated")
def test_a_dynamically_quantised_model_answers_nearly_the_same() -> None:
    model = video()
    small = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    frames = clips(model.config)
    with torch.no_grad():
        exact, rough = model(frames).logits, small(frames).logits
    assert (exact - rough).norm() / exact.norm() < 0.1


@every_variant
def test_frames_of_any_batch_and_length_are_exported(variant: str) -> None:
    model = video(variant)
    sizes = {"frames": {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}}
    program = torch.export.export(model, (), kwargs={"frames": clips(model.config)}, dynamic_shapes=sizes).module()
    others = clips(model.config, count=2, length=4, seed=1)
    torch.testing.assert_close(program(frames=others)[0], model(others)[0], atol=1e-5, rtol=0)


def test_a_stock_trainer_evaluates_with_the_usual_compute_metrics(tmp_path) -> None:
    model = video()
    inputs = learning(model)

    def accuracy(predicted: EvalPrediction) -> dict[str, float]:
        best, labels = predicted.predictions.argmax(-1), predicted.label_ids
        return {"accuracy": float((best == labels)[labels != -100].mean())}

    rows = [{name: tensor[row] for name, tensor in inputs.items()} for row in range(3)]
    arguments = TrainingArguments(tmp_path, report_to=[], use_cpu=True, disable_tqdm=True)
    found = Trainer(model, arguments, eval_dataset=rows, compute_metrics=accuracy).evaluate()["eval_accuracy"]
    right, count = model(**inputs).loss_parts["accuracy"]
    assert found == pytest.approx(float(right / count))


def test_learning_what_is_shown_is_warned_about(monkeypatch) -> None:
    """As the Trainer's label smoothing, which takes the labels away, has it."""
    said: list[str] = []
    monkeypatch.setattr("modeling_jepa.modeling_video_jepa.logger.warning_once", said.append)
    model = video().train()
    inputs = learning(model)
    model(**inputs)
    assert not said
    inputs.pop("labels")
    model(**inputs)
    assert "label_smoothing" in said[0]


def test_embeddings_are_what_codes_pass_through_and_cannot_be_resized() -> None:
    model = video()
    assert model.get_input_embeddings() is model.model.embed_pixels
    assert model.get_output_embeddings() is model.head.decoder
    with pytest.raises(ValueError, match="set vocab_size"):
        model.resize_token_embeddings(40)
