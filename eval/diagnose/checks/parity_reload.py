"""Saving and opening again (X8): what comes back is what was saved."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from eval.diagnose import thresholds
from eval.diagnose.checks.check import ANY, TEXT_KINDS, check
from eval.diagnose.probes.exact import NotFiniteError, clean, yardstick
from eval.diagnose.report.report import FAIL, Finding, Rule, said_by
from eval.diagnose.subject.subject import Subject

_TIED = Rule(
    "parity.tied_weights",
    "tables that are one tensor, or that the configuration calls tied, are equal now and after reloading",
)
_SHOWN = 5


@check(
    "parity.reload", "saved and opened again, every tensor is the same and no logit moves beyond rounding", kinds=ANY
)
def reload(subject: Subject, rule: Rule) -> list[Finding]:
    """Save the model as a user would, open it again, and compare tensors, logits and tied tables."""
    now = [_tied_now(subject)] if subject.kind in TEXT_KINDS else []
    if not fits_twice(subject, rule.check):
        return now
    found, again = _opened_again(subject, rule)
    if again is None:
        return [*now, *found]
    return [*found, *(one if one.verdict == FAIL else _tied_after(subject, again, one) for one in now)]


def _opened_again(subject: Subject, rule: Rule) -> tuple[list[Finding], PreTrainedModel | None]:
    """The model saved and opened, compared with itself on a batch; None in its place where that was not possible."""
    what = "saved"
    with tempfile.TemporaryDirectory() as folder, _quietly():
        if shutil.disk_usage(folder).free < 2 * _bytes(subject.model):
            subject.notes.append(f"{rule.check}: left out, as there is too little room in {folder}")
            return [], None
        try:
            subject.model.save_pretrained(folder)
            what = "opened again"
            again, info = type(subject.model).from_pretrained(
                Path(folder), output_loading_info=True, dtype=subject.model.dtype
            )
        except (RuntimeError, ValueError, TypeError, OSError, AttributeError, KeyError) as error:
            return [_refused(rule, what, error)], None
    again = again.to(subject.device).eval()
    return [_compared(subject, rule, again, info)], again


def fits_twice(subject: Subject, check: str) -> bool:
    """Whether the model is small enough to be copied for a check; what is left out is said."""
    fits = _bytes(subject.model) <= thresholds.COPIED_BYTES
    if not fits:
        subject.notes.append(f"{check}: left out, as the model is too large to be copied")
    return fits


def _compared(subject: Subject, rule: Rule, again: PreTrainedModel, info: dict[str, Any]) -> Finding:
    differ = _differing(subject.model, again)
    missing = sorted(map(str, info["missing_keys"]))
    evidence: dict[str, Any] = {"tensors_that_differ": differ[:_SHOWN], "number_that_differ": len(differ)}
    if missing:
        evidence["not_in_the_file"] = missing[:_SHOWN]
    moved = False
    batch = subject.batch(2, subject.fitting_length(32, rows=4))
    with suppress(NotFiniteError):  # then the tensors tell
        bar = yardstick(subject, batch)
        with torch.no_grad():
            told = clean(subject.ask(again, batch).logits)
        change = float((told - clean(subject.logits(batch))).abs().max().nan_to_num(nan=torch.finfo(told.dtype).max))
        evidence |= bar.evidence(change)
        moved = change > bar.tolerance
    if not differ and not moved:
        return rule.passed(evidence)
    changed = _other_parts(subject.model, again)
    if not differ and changed:
        return rule.noted(
            {**evidence, "parts_of_another_class": changed[:_SHOWN]},
            f"parts of this object are not what its class builds, and so are not there after opening: "
            f"{', '.join(changed[:_SHOWN])}",
            "build such parts in __init__ of the model's own class, from its configuration",
        )
    return rule.failed(evidence, *_reason(differ, missing, moved))


def _other_parts(model: PreTrainedModel, again: PreTrainedModel) -> list[str]:
    """Names of the modules that have another class after opening."""
    after = dict(again.named_modules())
    return [name for name, part in model.named_modules() if name and type(part) is not type(after.get(name))]


def _reason(differ: list[str], missing: list[str], moved: bool) -> tuple[str, str]:
    """Cause and remedy."""
    shown = ", ".join(differ[:_SHOWN])
    if missing:
        return (
            f"not saved, or not found again, and so random after opening: {', '.join(missing[:_SHOWN])}",
            "make them parameters or persistent buffers of the model, and where they share memory with others say so "
            "in _tied_weights_keys and config.tie_word_embeddings",
        )
    if differ:
        return (
            f"these come back as something else: {shown}",
            "set what is not saved in _init_weights with transformers.initialization, keep a teacher out, and let "
            "tie_word_embeddings say whether the tables are one",
        )
    return (
        "every tensor comes back, but the model that is opened computes something else: what this object does was "
        "changed after it was made, or a setting of it is not in the configuration",
        "put what the model does into its class and every setting into its configuration",
    )


def _refused(rule: Rule, what: str, error: Exception) -> Finding:
    return rule.failed(
        {"error": said_by(error)},
        f"the model cannot be {what} by the library: tensors that share memory without saying so, settings that "
        "contradict each other, or a class that does not build from its configuration alone",
        "read the error; declare shared tensors in _tied_weights_keys, and try save_pretrained and from_pretrained "
        "before training",
    )


# ---- tied tables ----


def _tied_now(subject: Subject) -> Finding:
    says, tables = _says_tied(subject.model), _tables(subject.model)
    if tables is None:
        return _TIED.passed({"tables": "one of them does not exist, or they have other shapes"})
    equal, shared = torch.equal(*_comparable(tables)), tables[0].data_ptr() == tables[1].data_ptr()
    evidence = {"configuration_says_tied": says, "equal": equal, "one_tensor": shared}
    if equal or not says:
        return _TIED.passed(evidence)
    return _TIED.failed(
        {**evidence, "largest_difference": _largest_difference(tables)},
        "the configuration says that input and output table are one, and they are two: they were untied by a copy, a "
        "wrapper or loading, and went apart",
        "call model.tie_weights() after building or loading, train again from there, or set "
        "config.tie_word_embeddings = False if two tables are meant",
    )


def _tied_after(subject: Subject, again: PreTrainedModel, now: Finding) -> Finding:
    before, after = _tables(subject.model), _tables(again)
    if before is None or after is None or not torch.equal(*_comparable(before)) or torch.equal(*_comparable(after)):
        return now
    return _TIED.failed(
        {**now.evidence, "equal_after_reload": False, "largest_difference": _largest_difference(after)},
        "input and output table are one while training, but only one of them is saved and the configuration does not "
        "tie them: after opening, the other one is random",
        "set config.tie_word_embeddings = True and name the pair in _tied_weights_keys; then save again",
    )


def _says_tied(model: PreTrainedModel) -> bool:
    return bool(model.config.to_dict().get("tie_word_embeddings"))


def _tables(model: PreTrainedModel) -> tuple[Tensor, Tensor] | None:
    """Input and output table, where both are there in one shape."""
    output = model.get_output_embeddings()
    if output is None:
        return None
    tables = model.get_input_embeddings().weight.detach(), output.weight.detach()
    return tables if tables[0].shape == tables[1].shape else None


def _comparable(tables: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """NaN equals NaN here."""
    return tables[0].nan_to_num(), tables[1].nan_to_num()


def _largest_difference(tables: tuple[Tensor, Tensor]) -> float:
    first, second = _comparable(tables)
    return float((first.float() - second.float()).abs().max())


# ---- tensors ----


def _differing(model: PreTrainedModel, again: PreTrainedModel) -> list[str]:
    """Names of parameters and buffers that are not the same in both, whether they are saved or not."""
    before, after = (dict([*one.named_parameters(), *one.named_buffers()]) for one in (model, again))
    names = sorted(before.keys() | after.keys())
    return [name for name in names if not _same(before.get(name), after.get(name))]


def _same(first: Tensor | None, second: Tensor | None) -> bool:
    """Equal, NaN included; one that is tied in one of the models only has no other to be compared with."""
    if first is None or second is None:
        return True
    if first.shape != second.shape:
        return False
    return torch.equal(first.detach().nan_to_num(), second.detach().to(first).nan_to_num())


def _bytes(model: PreTrainedModel) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the library's reports and bars; what they tell is in the finding."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
