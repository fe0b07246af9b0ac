"""Whether a moving-average teacher follows its student: by its updates, between checkpoints, by what it has learnt.

A teacher that stands still gives random targets for ever; a loss that falls on them looks like progress.
"""

from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from eval.diagnose import thresholds as limit
from eval.diagnose.checks.check import check
from eval.diagnose.probes.anatomy import above_random, untouched
from eval.diagnose.report.report import Finding, Rule
from eval.diagnose.subject.families import Average
from eval.diagnose.subject.subject import Subject
from modeling_jepa.teacher import STEPS_BEFORE_A_WARNING, MovingAverageTeacher

WEIGHTS = "model.safetensors"
_REMEDY = (
    "call update_teacher() after each optimizer step, or give a Trainer of the library callbacks=[TeacherCallback()] "
    "(from modeling_jepa; this package's Trainer does it by itself), with a momentum whose "
    "1 / (1 - momentum) is well below the number of steps: 0.996 for a thousand"
)


@check(
    "collapse.teacher_frozen",
    f"a teacher that is updated at every step, goes more than {limit.TEACHER_MOVED:g} of its way to the student in "
    f"{limit.TEACHER_STEPS} steps, and learns what the student learns",
    needs="average",
)
def teacher_frozen(subject: Subject, rule: Rule) -> list[Finding] | Finding:
    """Whether the teacher moved from where it began; nothing of a model without one."""
    average = subject.average
    if average is None:
        return []
    figures = _figures(subject, average)
    cause = _cause(figures, is_trained=not untouched(subject))
    return rule.passed(figures) if cause is None else rule.failed(figures, cause, _REMEDY)


def _cause(figures: dict[str, Any], is_trained: bool) -> str | None:
    """What is wrong with the teacher, the surest first; None where nothing is."""
    updates, renewed = figures["num_updates"], figures["renewed_share"]
    if figures["steps_without_update"] >= STEPS_BEFORE_A_WARNING:
        return f"the student learnt for {figures['steps_without_update']} steps since the teacher's last update"
    if not is_trained:
        return None
    if updates <= 1:
        return f"the teacher was updated {updates} times while the student was trained: nothing calls its update"
    moved = figures.get("moved_between_checkpoints")
    if moved is not None and moved < limit.TEACHER_MOVED:
        return "the teacher is the same in two checkpoints between which the student moved: it is not updated"
    if updates >= limit.TEACHER_STEPS and renewed < limit.TEACHER_RENEWED:
        return f"its momentum of {figures['momentum']:g} is so near 1 that after {updates:,} updates it is its start"
    if figures["distance_to_student"] == 0.0 and figures["momentum"] > 0:
        return (
            "the teacher is the student itself and no average: it was tied to it, copied anew, or saved in its place"
        )
    student, teacher = figures["student_above_random"], figures["teacher_above_random"]
    expected = renewed > 0.5 and student > limit.ABOVE_RANDOM
    if expected and teacher < limit.TEACHER_ABOVE_RANDOM * student:
        return "the student's weights have learnt something, the teacher's are still random numbers: it kept its start"
    return None


def _figures(subject: Subject, average: Average) -> dict[str, Any]:
    student, teacher = dict(average.student.named_parameters()), dict(average.teacher.named_parameters())
    matrices = [name for name, weight in teacher.items() if weight.ndim == 2 and min(weight.shape) > 1]
    first, second = _joined(teacher), _joined({name: student[name] for name in teacher})
    updates, momentum = average.num_updates, average.momentum
    figures: dict[str, Any] = {
        "num_updates": updates,
        "momentum": momentum,
        "steps_without_update": max(
            (part.steps_without_update for part in subject.model.modules() if isinstance(part, MovingAverageTeacher)),
            default=0,
        ),
        "renewed_share": 1.0 - momentum**updates,
        "distance_to_student": float((first - second).norm() / second.norm().clamp_min(1e-300)),
        "student_above_random": _mean(above_random(student[name]) for name in matrices),
        "teacher_above_random": _mean(above_random(teacher[name]) for name in matrices),
    }
    return figures | _between_checkpoints(subject, average)


def _between_checkpoints(subject: Subject, average: Average) -> dict[str, Any]:
    """Share of its way to the student that the teacher went between the first and the last checkpoint of the run."""
    found = (
        [] if subject.record is None else [path for path in subject.record.checkpoints if (path / WEIGHTS).is_file()]
    )
    if len(found) < 2 or _step(found[-1]) - _step(found[0]) < limit.TEACHER_STEPS:
        return {}
    before, after = (_read(path, subject.model, average) for path in (found[0], found[-1]))
    if before is None or after is None:
        return {}
    way, gone = (after[1] - before[0]).norm(), (after[0] - before[0]).norm()
    if float((after[1] - before[1]).norm()) == 0.0:
        return {}
    names = [found[0].name, found[-1].name]
    return {"checkpoints": names, "moved_between_checkpoints": float(gone / way.clamp_min(1e-300))}


def _read(folder: Path, model: nn.Module, average: Average) -> tuple[Tensor, Tensor] | None:
    """Teacher's and student's weights of a checkpoint as two vectors; None where it holds other tensors."""
    prefixes = {id(module): name for name, module in model.named_modules()}
    teacher, student = (f"{prefixes[id(part)]}." for part in (average.teacher, average.student))
    names = [name for name, _ in average.teacher.named_parameters()]
    with safetensors.safe_open(folder / WEIGHTS, framework="pt") as file:
        held = set(file.keys())
        if not all(teacher + name in held and student + name in held for name in names):
            return None
        first = _joined({name: file.get_tensor(teacher + name) for name in names})
        return first, _joined({name: file.get_tensor(student + name) for name in names})


def _joined(weights: dict[str, Tensor]) -> Tensor:
    return torch.cat([weight.detach().flatten().double().cpu() for weight in weights.values()])


def _mean(values: Any) -> float:
    listed = list(values)
    return sum(listed) / len(listed) if listed else 0.0


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("checkpoint-"))
