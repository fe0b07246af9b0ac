"""Runs the checks of all groups, one after the other, and leaves the model as it was."""

import importlib
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch

from eval.diagnose.checks import GROUPS as GROUPS
from eval.diagnose.checks.check import Check
from eval.diagnose.report.causes import causes_first
from eval.diagnose.report.report import Finding, Report, Rule, as_list, said_by
from eval.diagnose.subject.families import own_checks
from eval.diagnose.subject.subject import Subject, TooLargeError
from training.common.errors import InputError
from training.common.records import package_versions

Progress = Callable[[str], None]


def choose_groups(only: Sequence[str] = (), skip: Sequence[str] = ()) -> list[str]:
    """Names of the groups to run, in their order; raises InputError for a name that is none, or where none is left."""
    unknown = [name for name in (*only, *skip) if name not in GROUPS]
    if unknown:
        raise InputError(f"groups: got {', '.join(unknown)}; use some of {', '.join(GROUPS)}")
    chosen = [name for name in GROUPS if (not only or name in only) and name not in skip]
    if not chosen:
        raise InputError("groups: every one is skipped, so nothing is left to look at; skip fewer")
    return chosen


def examine(
    subject: Subject, groups: Sequence[str], found: Sequence[Finding] = (), progress: Progress = lambda group: None
) -> Report:
    """All findings of the groups.

    Args:
        found: what opening the model found already.
        progress: told the name of each group before it begins.
    """
    findings = list(found)
    with _left_as_it_was(subject):
        for group in groups:
            progress(group)
            for check in checks_of(group, subject.kind):
                if _applies(check, subject):
                    findings += _run(subject, group, check)
    if not findings and not subject.notes:
        subject.notes.append(
            f"nothing was looked at: {', '.join(groups)} needs what is not here (a run folder, text, or a model of "
            "another kind)"
        )
    return Report(
        model=subject.name,
        kind=subject.kind,
        findings=causes_first([replace(one, again=one.again or _again(subject, one.group)) for one in findings]),
        parameters=subject.parameters,
        data=subject.data,
        notes=subject.notes,
        seconds=time.monotonic() - subject.started,
        figures=subject.figures,
        versions=package_versions(),
    )


def checks_of(group: str, kind: str = "") -> tuple[Check, ...]:
    """The checks of a group for models of a kind, opened when they are needed: those of all, then a family's own."""
    found = [*importlib.import_module(f"eval.diagnose.checks.{group}").CHECKS]
    for module in own_checks(kind):
        found += [check for check in importlib.import_module(module).CHECKS if check.group == group]
    return tuple(check for check in found if not kind or check.is_for(kind))


def _again(subject: Subject, group: str) -> str:
    """How to see a finding again: a command where the model has a place, else a line of Python."""
    if subject.is_opened:
        return f"python -m eval.diagnose {subject.name} --only {group}"
    return f"diagnose(model, tokenizer, only=[{group!r}])"


def _applies(check: Check, subject: Subject) -> bool:
    """Whether the check can look at this subject."""
    has = {
        "": True,
        "record": subject.record is not None,
        "trainer": subject.trainer is not None,
        "latent": subject.latent is not None,
        "average": subject.average is not None,
        "dialogues": bool(subject.parts) and subject.traits.dialogues,
        "documents": subject.traits.documents,
        "texts": bool(subject.parts),
        "tokenizer": subject.tokenizer is not None,
        "future": subject.foretells,
    }
    return check.is_for(subject.kind) and has[check.needs]


def _run(subject: Subject, group: str, check: Check) -> list[Finding]:
    """One check; what it raises becomes a note, and out of memory asks for fewer rows."""
    name = f"{group}.{check.name}"
    if subject.seconds_left() <= 0:
        subject.notes.append(f"{name}: left out, as the {subject.limits.seconds:.0f} s were over")
        return []
    while True:
        try:
            with _same_chance(subject):
                return as_list(check.run(subject))
        except TooLargeError as error:
            subject.notes.append(f"{name}: left out, as {error}")
            return []
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error) or subject.limits.rows <= 1:
                return [_could_not_run(name, error)]
            subject.limits.rows //= 2
            subject.limits.max_logit_bytes //= 2
            subject.notes.append(f"{name}: out of memory, repeated with {subject.limits.rows} rows")
        except Exception as error:  # one check that a strange model breaks must not take the others along
            return [_could_not_run(name, error)]


def _could_not_run(name: str, error: BaseException) -> Finding:
    """A note that holds the error, so that nothing is swallowed."""
    return Rule(name, "the check runs").noted(
        {"error": said_by(error)},
        "it could not be run on this model",
        "read the error; if the model is an ordinary one, this is a fault of the doctor: please report it",
    )


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or "can't allocate memory" in str(error)


@contextmanager
def _left_as_it_was(subject: Subject) -> Iterator[None]:
    """Evaluation mode inside; afterwards every module trains or does not as before, with the gradients it had."""
    modes = [(module, module.training) for module in subject.model.modules()]
    gradients = [(parameter, parameter.grad) for parameter in subject.model.parameters()]
    subject.model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, gradient in gradients:
            parameter.grad = gradient


@contextmanager
def _same_chance(subject: Subject) -> Iterator[None]:
    """The same random numbers for every look; those of the caller go on afterwards as if nothing had been."""
    state, numpy_state = random.getstate(), np.random.get_state()
    devices = [subject.device.index or 0] if subject.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        try:
            yield
        finally:
            random.setstate(state)
            np.random.set_state(numpy_state)
            subject.model.eval()
