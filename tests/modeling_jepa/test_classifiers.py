"""Classifiers on the trunks: the library's losses, its Trainer, pipelines and adapters."""

import pytest
import torch
import transformers
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel, Trainer, TrainingArguments, pipeline

from tests.families import ROUTED_GENERATOR, STAGED_GENERATOR, TEXT_JEPA, Family, tiny_tokenizer

SEQUENCE, TOKEN = "AutoModelForSequenceClassification", "AutoModelForTokenClassification"
HEADS = [(TEXT_JEPA, SEQUENCE), (TEXT_JEPA, TOKEN), (STAGED_GENERATOR, SEQUENCE), (ROUTED_GENERATOR, SEQUENCE)]
each_head = pytest.mark.parametrize(("family", "head"), HEADS, ids=lambda value: getattr(value, "name", value))
each_sequence_head = pytest.mark.parametrize("family", [TEXT_JEPA, STAGED_GENERATOR], ids=lambda family: family.name)


def classifier(family: Family, head: str = SEQUENCE, **changes: object) -> PreTrainedModel:
    torch.manual_seed(0)
    return family.heads[head](family.config(**changes)).eval()


def labels_of(model: PreTrainedModel, inputs: dict, head: str) -> torch.Tensor:
    shape = inputs["input_ids"].shape if head == TOKEN else inputs["input_ids"].shape[:1]
    return torch.randint(0, model.num_labels, shape, generator=torch.Generator().manual_seed(1))


@each_head
def test_a_pretrained_trunk_opens_with_a_new_layer_and_is_saved_with_it(family: Family, head: str, tmp_path) -> None:
    learner = family.model()
    learner.save_pretrained(tmp_path / "pretrained")
    model, info = getattr(transformers, head).from_pretrained(
        tmp_path / "pretrained", num_labels=3, output_loading_info=True
    )
    assert type(model) is family.heads[head]
    assert info.pop("missing_keys") == {"classifier.weight", "classifier.bias"}
    assert not any(info.values()), info
    for name, tensor in learner.base_model.state_dict().items():
        assert torch.equal(model.base_model.state_dict()[name], tensor), name
    model.save_pretrained(tmp_path / "classifier")
    again = getattr(transformers, head).from_pretrained(tmp_path / "classifier")
    inputs = family.inputs(model.config)
    assert torch.equal(again(**inputs).logits, model.eval()(**inputs).logits)
    assert again.config.architectures == [family.heads[head].__name__]


@each_head
def test_the_loss_is_the_librarys(family: Family, head: str) -> None:
    model = classifier(family, head, num_labels=3)
    inputs = family.inputs(model.config)
    labels = labels_of(model, inputs, head)
    if head == TOKEN:
        labels = labels.masked_fill(inputs["attention_mask"] == 0, -100)
    output = model(**inputs, labels=labels)
    expected = torch.nn.functional.cross_entropy(output.logits.flatten(0, -2), labels.flatten())
    assert torch.equal(output.loss, expected)
    output.loss.backward()
    assert all(parameter.grad is not None for parameter in model.classifier.parameters())
    assert model.base_model.layers[0].mlp.up_proj.weight.grad.any()


@each_sequence_head
def test_numbers_and_several_labels_at_once(family: Family) -> None:
    inputs = family.inputs(family.config())
    number = classifier(family, num_labels=1)
    wanted = torch.tensor([0.5, -1.0, 2.0, 0.0])
    output = number(**inputs, labels=wanted)
    torch.testing.assert_close(output.loss, torch.nn.functional.mse_loss(output.logits[:, 0], wanted))
    several = classifier(family, num_labels=3, problem_type="multi_label_classification")
    wanted = torch.tensor([[1.0, 0.0, 1.0]] * 4)
    output = several(**inputs, labels=wanted)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(output.logits, wanted)
    torch.testing.assert_close(output.loss, expected)


@each_head
def test_parts_of_a_batch_add_up_to_its_loss(family: Family, head: str) -> None:
    model = classifier(family, head, num_labels=3)
    inputs = family.inputs(model.config)
    labels = labels_of(model, inputs, head)
    whole = model(**inputs, labels=labels)
    count = labels.numel()
    parts = [
        model(**{name: value[rows] for name, value in inputs.items()}, labels=labels[rows], num_items_in_batch=count)
        for rows in (slice(0, 1), slice(1, None))
    ]
    torch.testing.assert_close(parts[0].loss + parts[1].loss, whole.loss)
    found = sum(each.loss_parts["classification"] for each in parts)
    torch.testing.assert_close(found, torch.stack((whole.loss * count, torch.tensor(float(count)))))
    right = (whole.logits.argmax(-1) == labels).sum()
    assert whole.loss_parts["accuracy"].tolist() == [right, count]


@each_sequence_head
def test_a_stock_trainer_gives_the_logits_to_compute_metrics(family: Family, tmp_path) -> None:
    model = classifier(family, num_labels=3)
    inputs = family.inputs(model.config)
    rows = [{"input_ids": ids.tolist(), "labels": 1} for ids in inputs["input_ids"]]
    shapes = []

    def accuracy(found: transformers.EvalPrediction) -> dict[str, float]:
        shapes.append(found.predictions.shape)
        return {"accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())}

    arguments = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    trainer = Trainer(model, arguments, eval_dataset=Dataset.from_list(rows), compute_metrics=accuracy)
    assert 0 <= trainer.evaluate()["eval_accuracy"] <= 1
    assert shapes == [(len(rows), 3)]
    assert "keys_to_ignore_at_inference" not in model.config.to_dict()
    assert "logits" in family.config().keys_to_ignore_at_inference or family is STAGED_GENERATOR


@each_head
def test_padding_changes_no_answer(family: Family, head: str) -> None:
    model = classifier(family, head)
    ids = torch.tensor([[5, 6, 7, 8]])
    alone = model(input_ids=ids).logits
    blank = torch.full((1, 3), model.config.pad_token_id)
    for left in (False, True):
        parts = (blank, ids) if left else (ids, blank)
        mask = torch.cat([torch.full_like(part, int(part is ids)) for part in parts], dim=1)
        padded = model(input_ids=torch.cat(parts, dim=1), attention_mask=mask).logits
        kept = padded[:, 3:] if left and head == TOKEN else padded[:, :4] if head == TOKEN else padded
        torch.testing.assert_close(kept, alone, rtol=1e-5, atol=1e-6)


@each_sequence_head
def test_the_stock_trainer_learns_a_label_and_its_pipeline_says_it(family: Family, tmp_path) -> None:
    rows = [{"input_ids": [3, 5 + row % 2, 7 + row % 9, 4], "labels": row % 2} for row in range(64)]
    losses = {}
    for batch, accumulation in ((8, 1), (4, 2)):
        model = classifier(family, num_labels=2, id2label={0: "even", 1: "odd"}, label2id={"even": 0, "odd": 1})
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=40,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            learning_rate=1e-2,
            logging_steps=10,
            report_to=[],
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = Trainer(model, arguments, train_dataset=Dataset.from_list(rows))
        trainer.train()
        losses[batch] = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[8][-1] < 0.1 < losses[8][0]
    assert losses[4] == pytest.approx(losses[8], rel=0.05, abs=1e-3)
    tokenizer = tiny_tokenizer(model.config)
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    said = pipeline("text-classification", model=str(tmp_path / "saved"), device="cpu")(
        [tokenizer.decode([5, 9]), tokenizer.decode([6, 9])]
    )
    assert [each["label"] for each in said] == ["even", "odd"]


def test_the_token_pipeline_labels_words(tmp_path) -> None:
    model = classifier(TEXT_JEPA, TOKEN, num_labels=2, id2label={0: "B-A", 1: "B-B"}, label2id={"B-A": 0, "B-B": 1})
    model.save_pretrained(tmp_path)
    tiny_tokenizer(model.config).save_pretrained(tmp_path)
    said = pipeline("token-classification", model=str(tmp_path), device="cpu")("w1 w2 w3")
    assert {each["entity"] for each in said} <= {"B-A", "B-B"}
    assert [each["word"] for each in said if each["word"].startswith("w")] == ["w1", "w2", "w3"]


@each_sequence_head
def test_lora_trains_the_new_layer_and_the_adapters(family: Family) -> None:
    model = classifier(family)
    adapted = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj", "v_proj"]))
    inputs = family.inputs(model.config)
    adapted(**inputs, labels=torch.tensor([0, 1, 0, 1])).loss.backward()
    learning = {name for name, parameter in adapted.named_parameters() if parameter.grad is not None}
    assert any("lora_B" in name for name in learning)
    assert any("classifier.modules_to_save" in name for name in learning)
