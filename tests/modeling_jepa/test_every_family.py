"""What holds for the models of every family."""

import copy

import pytest
import torch
import transformers
from safetensors import safe_open

from configuration_jepa import StagedGeneratorConfig
from tests.families import FAMILIES, Family, row_of, tiny_tokenizer
from tests.modeling_jepa.tiny_generators import open_gates

pytestmark = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


def total(parts: torch.Tensor) -> float:
    return float(parts[0] / parts[1])


def same_tensors(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    one, two = first.state_dict(), second.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def answers(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs)[0]


def test_config_survives_a_round_trip(family: Family, tmp_path) -> None:
    config = family.config(dropout=0.25)
    config.save_pretrained(tmp_path)
    assert transformers.AutoConfig.from_pretrained(tmp_path).to_json_string() == config.to_json_string()


def test_every_auto_class_opens_a_checkpoint_bitwise(family: Family, tmp_path) -> None:
    model = family.model()
    model.save_pretrained(tmp_path)
    inputs = family.inputs(model.config)
    for auto_class, ours in family.classes.items():
        opened, info = getattr(transformers, auto_class).from_pretrained(tmp_path, output_loading_info=True)
        assert type(opened) is ours
        assert not any(info.values()), f"{auto_class}: {info}"
        if ours is family.learner:
            assert same_tensors(opened, model)
            assert torch.equal(opened(**inputs).logits, model(**inputs).logits)
        else:
            assert same_tensors(opened, model.base_model)


def test_sharded_checkpoint_opens_bitwise(family: Family, tmp_path) -> None:
    model = family.model()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert same_tensors(family.learner.from_pretrained(tmp_path), model)


def test_checkpoint_holds_no_pickle(family: Family, tmp_path) -> None:
    family.model().save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} <= {".json", ".py", ".safetensors"}


def test_what_a_checkpoint_lacks_starts_as_if_new(family: Family, tmp_path) -> None:
    """The weights are built on the meta device: whatever no one sets would come back as garbage."""
    family.config().save_pretrained(tmp_path)
    torch.manual_seed(0)
    meta = family.learner.from_pretrained(None, config=family.config(), state_dict={})
    fresh = family.model()
    for name, tensor in meta.state_dict().items():
        reference = fresh.state_dict()[name]
        assert torch.isfinite(tensor).all(), name
        if reference.numel() == 1 or reference.float().std() == 0:
            assert torch.equal(tensor, reference), name
        else:
            assert tensor.std() / reference.std() == pytest.approx(1.0, abs=0.25), name


def test_tied_weights_are_tied_after_reload(family: Family, tmp_path) -> None:
    family.model().save_pretrained(tmp_path)
    opened = family.learner.from_pretrained(tmp_path)
    table = opened.get_input_embeddings().weight
    assert opened.get_output_embeddings().weight is table
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        shapes = [file.get_slice(name).get_shape() for name in set(file.keys()) if "teacher." not in name]
    assert shapes.count(list(table.shape)) == 1


def test_untied_weights_stay_apart_after_reload(family: Family, tmp_path) -> None:
    model = family.model(tie_word_embeddings=False)
    model.save_pretrained(tmp_path)
    opened = family.learner.from_pretrained(tmp_path)
    assert opened.get_output_embeddings().weight is not opened.get_input_embeddings().weight
    assert same_tensors(opened, model)


def test_every_trainable_parameter_gets_a_gradient(family: Family) -> None:
    """At the second step: behind what starts at zero there is no gradient at the first."""
    model = family.model().train()
    inputs = family.learning_inputs(model.config)
    model(**inputs).loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    model.zero_grad()
    model(**inputs).loss.backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert without == []


def test_padding_changes_no_answer(family: Family) -> None:
    model = family.model()
    inputs = family.inputs(model.config)
    padded = {name: torch.nn.functional.pad(tensor, (0, 3)) for name, tensor in inputs.items()}
    kept = inputs[family.answered].bool()
    length = kept.shape[1]
    torch.testing.assert_close(
        answers(model, padded)[:, :length][kept], answers(model, inputs)[kept], atol=1e-5, rtol=0
    )


def test_batch_mates_change_no_answer(family: Family) -> None:
    model = family.model()
    inputs = family.inputs(model.config)
    together = answers(model, inputs)
    for row in range(len(together)):
        alone = answers(model, row_of(inputs, row))
        torch.testing.assert_close(alone[0], together[row, : alone.shape[1]], atol=1e-5, rtol=0)


def test_order_of_the_batch_changes_no_answer(family: Family) -> None:
    model = family.model()
    inputs = family.inputs(model.config)
    order = torch.tensor([2, 0, 3, 1])
    shuffled = answers(model, {name: tensor[order] for name, tensor in inputs.items()})
    torch.testing.assert_close(shuffled, answers(model, inputs)[order], atol=1e-5, rtol=0)


def test_sdpa_equals_eager(family: Family) -> None:
    eager, sdpa = (family.model(attn_implementation=name) for name in ("eager", "sdpa"))
    assert same_tensors(eager, sdpa)
    inputs = family.inputs(eager.config)
    kept = inputs[family.answered].bool()
    torch.testing.assert_close(answers(eager, inputs)[kept], answers(sdpa, inputs)[kept], atol=1e-5, rtol=0)


def test_bf16_is_close_to_fp32(family: Family) -> None:
    model = family.model()
    half = copy.deepcopy(model).to(torch.bfloat16)
    inputs = family.inputs(model.config)
    kept = inputs[family.answered].bool()
    exact, rough = answers(model, inputs)[kept], answers(half, inputs)[kept].float()
    assert (exact - rough).norm() / exact.norm() < 0.03
    assert family.learner(model.config).to(torch.bfloat16)(**family.learning_inputs(model.config)).loss.isfinite()


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_no_gradient(family: Family, reentrant: bool) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = family.model(dropout=0.1).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        torch.manual_seed(1)
        model(**family.learning_inputs(model.config)).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-5)


def test_weights_on_disk_change_no_answer(family: Family, tmp_path) -> None:
    model = family.model()
    model.save_pretrained(tmp_path)
    opened = family.learner.from_pretrained(tmp_path, device_map={"": "disk"}, offload_folder=tmp_path / "disk")
    inputs = family.inputs(model.config)
    torch.testing.assert_close(answers(opened, inputs), answers(model, inputs), atol=1e-6, rtol=0)


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated")
def test_a_dynamically_quantised_model_answers_nearly_the_same(family: Family) -> None:
    model = family.model()
    inputs = family.inputs(model.config)
    small = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    exact, rough = answers(model, inputs), answers(small, inputs)
    assert (exact - rough).norm() / exact.norm() < 0.1


def test_states_stay_fractions_beside_weights_of_whole_numbers(family: Family) -> None:
    """As quantisers of 8 bits do: a layer whose `weight` is int8."""

    class Int8(torch.nn.Module):
        def __init__(self, linear: torch.nn.Linear) -> None:
            super().__init__()
            self.scale = linear.weight.detach().abs().max() / 127
            self.weight = torch.nn.Parameter((linear.weight / self.scale).round().to(torch.int8), requires_grad=False)
            self.bias = linear.bias

        def forward(self, states: torch.Tensor) -> torch.Tensor:
            assert states.is_floating_point()
            return torch.nn.functional.linear(states, self.weight * self.scale, self.bias)

    model = family.model()
    inputs = family.inputs(model.config)
    exact = answers(model, inputs)
    tables = (model.get_input_embeddings(), model.get_output_embeddings())
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear) and module not in tables and "teacher" not in name:
            model.set_submodule(name, Int8(module))
    assert (exact - answers(model, inputs)).norm() / exact.norm() < 0.1


def test_one_batch_is_memorised(family: Family) -> None:
    """The prediction loss falls under 0.1 above its floor (full-vocabulary cosines at scale s have one)."""
    model = family.model(**family.memorising).train()
    inputs = family.learning_inputs(model.config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    for _ in range(150):
        optimizer.zero_grad()
        output = model(**inputs)
        if total(output.loss_parts[family.main_part]) < 0.1:
            return
        output.loss.backward()
        optimizer.step()
    pytest.fail(f"{total(output.loss_parts[family.main_part])} after 150 steps")


def test_loss_is_a_share_of_the_window_mean(family: Family) -> None:
    """With the window's count, the losses of its micro-batches add up to the loss of the whole."""
    model = family.model(**family.splitting)
    whole = family.learning_inputs(model.config, rows=4)
    items = int((whole["labels"] != -100).sum())
    halves = []
    for rows in (slice(0, 2), slice(2, 4)):
        half = {name: tensor[rows] for name, tensor in whole.items() if name != "negative_ids"}
        if "negative_ids" in whole:  # of all holes in a row
            negatives = whole["negative_ids"]
            half["negative_ids"] = negatives.view(4, -1, negatives.shape[1])[rows].flatten(0, 1)
        halves.append(model(**half, num_items_in_batch=items))
    reference = model(**whole)
    assert sum(half.loss for half in halves).item() == pytest.approx(reference.loss.item(), abs=1e-6)
    for name, part in reference.loss_parts.items():
        if name in family.of_the_batch:
            continue
        torch.testing.assert_close(sum(half.loss_parts[name] for half in halves), part)


def test_parts_are_sums_and_counts_in_float32(family: Family) -> None:
    model = family.model()
    output = model(**family.learning_inputs(model.config))
    assert {(tuple(part.shape), part.dtype, part.requires_grad) for part in output.loss_parts.values()} == {
        ((2,), torch.float32, False)
    }


def test_a_stock_trainer_evaluates_with_the_usual_compute_metrics(family: Family, tmp_path) -> None:
    model = family.model()
    inputs = family.learning_inputs(model.config)
    inputs.pop("negative_ids", None)
    shifted = 1 if family.config_class is StagedGeneratorConfig else 0

    def accuracy(predicted: transformers.EvalPrediction) -> dict[str, float]:
        best, labels = predicted.predictions.argmax(-1), predicted.label_ids
        best, labels = best[:, : best.shape[1] - shifted], labels[:, shifted:]
        return {"accuracy": float((best == labels)[labels != -100].mean())}

    rows = [{name: tensor[row] for name, tensor in inputs.items()} for row in range(4)]
    arguments = transformers.TrainingArguments(tmp_path, report_to=[], use_cpu=True, disable_tqdm=True)
    trainer = transformers.Trainer(model, arguments, eval_dataset=rows, compute_metrics=accuracy)
    assert trainer.evaluate()["eval_accuracy"] == pytest.approx(total(model(**inputs).loss_parts["accuracy"]))


def test_a_name_that_is_no_field_is_refused_when_it_is_set(family: Family) -> None:
    config = family.config()
    with pytest.raises(ValueError, match="has no field 'my_note'"):
        config.my_note = "experiment 12"


def test_any_batch_and_length_of_an_exported_model(family: Family) -> None:
    model = family.model(**({"target_table": "ema"} if family.name == "text_jepa" else {}))
    open_gates(model)
    model.config.use_cache = False
    inputs = family.inputs(model.config)
    sizes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    program = torch.export.export(model, (), kwargs=inputs, dynamic_shapes=dict.fromkeys(inputs, sizes)).module()
    others = family.inputs(model.config, rows=3, length=8)
    kept = others[family.answered].bool()
    torch.testing.assert_close(program(**others)[0][kept], answers(model, others)[kept], atol=1e-5, rtol=0)


def test_hidden_states_and_attentions_come_on_request(family: Family) -> None:
    model = family.model(attn_implementation="eager")
    inputs = family.inputs(model.config)
    output, plain = model(**inputs, output_hidden_states=True, output_attentions=True), model(**inputs)
    for states, attentions, mask in family.records:
        batch, length = inputs[mask].shape
        assert [tuple(vectors.shape) for vectors in output[states]] == [(batch, length, 32)] * 3
        attended = family.attended(length)
        assert [tuple(weights.shape) for weights in output[attentions]] == [(batch, 4, length, attended)] * 2
        assert plain.get(states) is plain.get(attentions) is None


@pytest.mark.parametrize("task", ["fill-mask", "feature-extraction", "text-generation"])
def test_stock_pipelines_work_with_the_package_installed(family: Family, task: str, tmp_path) -> None:
    if task not in family.tasks:
        pytest.skip(f"{family.name} has no {task}")  # the library has no such pipeline for its Auto classes
    family.model().save_pretrained(tmp_path)
    tokenizer = tiny_tokenizer(family.config())
    tokenizer.save_pretrained(tmp_path)
    flags = {"do_sample": False, "return_full_text": False} if task == "text-generation" else {}
    answer = transformers.pipeline(task, model=str(tmp_path), device="cpu")("w1 [MASK] w3", **flags)
    inputs = tokenizer("w1 [MASK] w3", return_tensors="pt")
    if task == "text-generation":
        generated = family.learner.from_pretrained(tmp_path).generate(**inputs, do_sample=False, max_new_tokens=99)
        new = generated[0, inputs["input_ids"].shape[1] :]
        assert answer[0]["generated_text"].split() == tokenizer.decode(new, skip_special_tokens=True).split()
    elif task == "feature-extraction":
        expected = transformers.AutoModel.from_pretrained(tmp_path)(**inputs).last_hidden_state
        torch.testing.assert_close(torch.tensor(answer), expected.detach(), atol=1e-5, rtol=0)
    else:
        best = family.learner.from_pretrained(tmp_path)(**inputs).logits[0, 2].argmax().item()
        assert answer[0]["token"] == best


def test_tuple_output_is_the_same_as_the_named_one(family: Family) -> None:
    model = family.model()
    inputs = family.inputs(model.config)
    assert torch.equal(model(**inputs, return_dict=False)[0], model(**inputs)[0])


def test_resized_embeddings_keep_old_answers(family: Family, tmp_path) -> None:
    model = family.model()
    inputs = family.inputs(model.config)
    before = answers(model, inputs)
    model.resize_token_embeddings(101)
    assert model.config.vocab_size == 101
    after = answers(model, inputs)
    assert after.shape[-1] == 101
    torch.testing.assert_close(after[..., :97], before, atol=1e-5, rtol=0)
    assert model(**family.learning_inputs(model.config)).loss.isfinite()
    model.save_pretrained(tmp_path)
    assert same_tensors(family.learner.from_pretrained(tmp_path), model)


def test_compiled_forward_equals_the_plain_one(family: Family) -> None:
    model = family.model()
    open_gates(model)
    inputs = family.inputs(model.config)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    kept = inputs[family.answered].bool()
    torch.testing.assert_close(answers(compiled, inputs)[kept], answers(model, inputs)[kept], atol=1e-5, rtol=0)


def test_a_sequence_longer_than_the_model_is_refused_by_name(family: Family) -> None:
    model = family.model()
    with pytest.raises(ValueError, match=r"17 tokens .* max_position_embeddings=16"):
        model(**family.inputs(model.config, length=17))
