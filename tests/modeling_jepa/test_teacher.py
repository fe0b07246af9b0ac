"""The moving-average teacher: followed, frozen, saved, and left out where it does not belong."""

import pytest
import torch
from transformers import AutoModel, Trainer, TrainingArguments

from modeling_jepa.teacher import STEPS_BEFORE_A_WARNING, MovingAverageTeacher, TeacherCallback
from tests.families import DIALOGUE_JEPA, TEXT_JEPA, Family

TABLES = ("ema", "contextual")


def student_and_target(model) -> list[tuple[torch.Tensor, torch.Tensor]]:
    student = dict(model._student().named_parameters())
    return [(student[name], own) for name, own in model.teacher.target.named_parameters()]


def train_step(model, optimizer) -> None:
    optimizer.zero_grad()
    model(**TEXT_JEPA.learning_inputs(model.config)).loss.backward()
    optimizer.step()
    model.update_teacher()


@pytest.fixture(params=TABLES)
def model(request):
    return TEXT_JEPA.model(target_table=request.param, alignment_weight=1.0, teacher_momentum=0.9, dropout=0.1).train()


def test_average_is_the_formula() -> None:
    teacher = MovingAverageTeacher(torch.nn.Linear(2, 2, bias=False), momentum=0.75)
    student = torch.nn.Linear(2, 2, bias=False)
    teacher.update(student)
    first = student.weight.detach().clone()
    with torch.no_grad():
        student.weight += 4.0
    teacher.update(student)
    torch.testing.assert_close(teacher.target.weight, first + 1.0)
    assert teacher.num_updates == 2


def test_first_step_copies_the_student(model) -> None:
    assert not all(torch.equal(student, target) for student, target in student_and_target(model))
    model(**TEXT_JEPA.learning_inputs(model.config))
    assert all(torch.equal(student, target) for student, target in student_and_target(model))
    assert model.teacher.num_updates == 0
    train_step(model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad]))
    assert all(torch.equal(student, target) for student, target in student_and_target(model))
    assert model.teacher.num_updates == 1


def test_teacher_moves_only_by_averaging(model) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.5)
    train_step(model, optimizer)
    before = [target.clone() for _, target in student_and_target(model)]
    train_step(model, optimizer)
    for (student, target), old in zip(student_and_target(model), before, strict=True):
        torch.testing.assert_close(target, 0.9 * old + 0.1 * student, atol=1e-6, rtol=1e-5)
        assert target.grad is None


def test_teacher_is_saved_frozen_and_goes_on_averaging(model, tmp_path) -> None:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        train_step(model, optimizer)
    model.save_pretrained(tmp_path)
    opened = TEXT_JEPA.learner.from_pretrained(tmp_path)
    assert opened.teacher.num_updates == 2
    assert all(torch.equal(a, b) for a, b in zip(opened.teacher.parameters(), model.teacher.parameters(), strict=True))
    assert not any(parameter.requires_grad for parameter in opened.teacher.parameters())
    assert sum(p.requires_grad for p in opened.parameters()) == sum(p.requires_grad for p in model.parameters())


def test_auto_model_leaves_the_teacher_out(model, tmp_path) -> None:
    model.save_pretrained(tmp_path)
    encoder, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert not any("teacher" in name for name, _ in encoder.named_parameters())


def test_teacher_has_no_dropout(model) -> None:
    assert model.training
    assert not any(module.training for module in model.teacher.modules())


def test_contextual_target_is_what_the_teacher_says_of_the_intact_phrase() -> None:
    model = TEXT_JEPA.model(target_table="contextual", alignment_weight=1.0)
    inputs = TEXT_JEPA.learning_inputs(model.config)
    holes = inputs["labels"] != -100
    intact = torch.where(holes, inputs["labels"], inputs["input_ids"])
    said = model.model(intact, attention_mask=inputs["attention_mask"]).last_hidden_state[holes]
    output = model(**inputs)
    cosine = torch.nn.functional.cosine_similarity(output.predictions, said, dim=-1)
    torch.testing.assert_close(output.loss_parts["alignment"][0], (2 - 2 * cosine).sum(), atol=1e-4, rtol=0)


def test_ema_answers_and_negatives_come_from_one_table() -> None:
    model = TEXT_JEPA.model(target_table="ema")
    model.update_teacher()
    with torch.no_grad():
        model.get_input_embeddings().weight.normal_()
    inputs = TEXT_JEPA.learning_inputs(model.config)
    torch.testing.assert_close(
        model.table_directions(), torch.nn.functional.normalize(model.teacher.target.weight, dim=-1)
    )
    output = model(**inputs)
    expected = torch.nn.functional.linear(
        torch.nn.functional.normalize(output.predictions, dim=-1) * model.head.log_scale.exp(),
        model.table_directions(),
        model.head.decoder.bias,
    )
    torch.testing.assert_close(output.logits, expected)


@pytest.mark.parametrize("table", TABLES)
def test_teacher_grows_with_the_vocabulary(table: str) -> None:
    model = TEXT_JEPA.model(target_table=table)
    model.update_teacher()
    old = [target.clone() for _, target in student_and_target(model)]
    model.resize_token_embeddings(101)
    for (student, target), before in zip(student_and_target(model), old, strict=True):
        assert target.shape == student.shape
        assert not target.requires_grad
        torch.testing.assert_close(target[: len(before)], before)
    model.update_teacher()


TAUGHT = [(TEXT_JEPA, {"target_table": table, "alignment_weight": 1.0}) for table in TABLES] + [(DIALOGUE_JEPA, {})]


def stock_trainer(family: Family, model, folder, callbacks: list) -> Trainer:
    inputs = family.learning_inputs(model.config, rows=8)
    inputs.pop("negative_ids", None)
    rows = [{name: tensor[row] for name, tensor in inputs.items()} for row in range(8)]
    arguments = TrainingArguments(
        folder,
        max_steps=STEPS_BEFORE_A_WARNING + 2,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=1e-2,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    return Trainer(model, arguments, train_dataset=rows, callbacks=callbacks)


@pytest.mark.parametrize(("family", "changes"), TAUGHT, ids=["ema", "contextual", "dialogue"])
def test_a_stock_trainer_moves_the_teacher_by_the_callback_and_is_warned_without(
    family, changes, tmp_path, monkeypatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("modeling_jepa.teacher.logger.warning_once", said.append)
    for callbacks in ([TeacherCallback()], []):
        model = family.model(**changes, teacher_momentum=0.5).train()
        model.update_teacher()
        before = [weight.clone() for weight in model.teacher.target.parameters()]
        stock_trainer(family, model, tmp_path, callbacks).train()
        pairs = zip(before, model.teacher.target.parameters(), strict=True)
        assert any((old != new).any() for old, new in pairs) is bool(callbacks)
        assert model.teacher.stands_still is not bool(callbacks)
        assert bool(said) is not bool(callbacks)
    assert "TeacherCallback" in said[0]
    assert "update_teacher()" in said[0]


def test_a_model_without_a_teacher_takes_the_callback(tmp_path) -> None:
    stock_trainer(TEXT_JEPA, TEXT_JEPA.model(), tmp_path, [TeacherCallback()]).train()


def test_evaluation_and_accumulation_are_no_steps_without_an_update() -> None:
    model = TEXT_JEPA.model(target_table="ema").train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    inputs = TEXT_JEPA.learning_inputs(model.config)
    for _ in range(3 * STEPS_BEFORE_A_WARNING):
        model(**inputs).loss.backward()
        with torch.no_grad():
            model(**inputs)
    assert not model.teacher.stands_still
    optimizer.step()
