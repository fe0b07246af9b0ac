"""The doctor in a run: before step 1, every so many steps and after the last one, its findings go to screen and log.

python training/train.py RECIPE --diagnose --diagnose_steps 500

It changes nothing of the run: the same seed gives the same bits with it and without.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from eval.diagnose import Limits, Report, diagnose
from eval.diagnose.report.report import FAIL, NOTE, PASS, Finding
from eval.diagnose.report.text import evidence_text, gathered
from training.common.errors import InputError
from training.common.layout import LOG_FILE
from training.common.records import plain
from training.trainer.log_file import append_row
from training.trainer.trainer import JepaTrainer, full_precision

UNTRAINED = "distribution.untrained"
# Advice looks at the log while it grows, see `training.advice`.
SKIPPED_GROUPS = ("training",)


class Diagnose(TrainerCallback):
    """Lets the doctor look at the model, its batches and its loss, on the first process; the others wait.

    Args:
        trainer: the one that calls.
        steps: between two looks; None for the first and the last only.
        told_to_stop: asked between groups of checks; a signal does not wait for the doctor.
        from_nothing: before step 1 such a model is untrained, which is no fault then.
    """

    def __init__(
        self, trainer: JepaTrainer, steps: int | None, told_to_stop: Callable[[], bool], from_nothing: bool
    ) -> None:
        self.trainer = trainer
        self.steps = steps
        self.told_to_stop = told_to_stop
        self.from_nothing = from_nothing
        self._said: set[tuple[str, str]] = set()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Before step 1; a run that goes on was looked at then."""
        if state.global_step == 0:
            self._look(args, state)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Where a look is due."""
        due = self.steps is not None and state.global_step % self.steps == 0
        if due or state.global_step >= state.max_steps:
            self._look(args, state)

    def _look(self, args: TrainingArguments, state: TrainerState) -> None:
        self.trainer.window.stop_clock()
        if state.is_world_process_zero and (report := self._report(args)) is not None:
            findings = [finding for finding in report.findings if self._is_finding(finding, state.global_step)]
            self._say(report, findings, state.global_step)
            row = {"diagnosis": worst(findings), "findings": [_as_row(finding) for finding in findings]}
            path = Path(args.output_dir) / LOG_FILE
            append_row(path, state.global_step, args.device.type, plain({**row, "diagnosis_notes": report.notes}))
        self.trainer.accelerator.wait_for_everyone()

    def _report(self, args: TrainingArguments) -> Report | None:
        """None where a signal came in between, or where the doctor cannot look at such a run."""
        trainer = self.trainer
        model: PreTrainedModel = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
        try:
            with trainer.trial(), full_precision(model):
                return diagnose(
                    model,
                    trainer.processing_class,
                    run=args.output_dir,
                    # Its batches need all processes, and here is one.
                    trainer=trainer if args.world_size == 1 else None,
                    limits=Limits(),
                    skip=SKIPPED_GROUPS,
                    name=args.output_dir,
                    progress=self._stop_when_told,
                )
        except _StoppedError:
            return None
        except Exception as error:  # hours of training must not end by a fault of who only looks
            tqdm.write(f"diagnosis: could not be made: {type(error).__name__}: {' '.join(str(error).split())}")
            return None

    def _stop_when_told(self, group: str) -> None:
        if self.told_to_stop():
            raise _StoppedError

    def _is_finding(self, finding: Finding, step: int) -> bool:
        """What is not a pass; before step 1 a model from nothing must be untrained."""
        expected = step == 0 and self.from_nothing and finding.check == UNTRAINED
        return finding.verdict != PASS and not expected

    def _say(self, report: Report, findings: list[Finding], step: int) -> None:
        """A line of counts, every fail, notes that were not said before, and what was cut down."""
        fails = sum(finding.verdict == FAIL for finding in findings)
        counted = f"{fails} fail, {len(findings) - fails} note, {len(report.of(PASS))} pass"
        tqdm.write(
            f"diagnosis {f'after step {step:,}' if step else 'before step 1'}: {counted} ({report.seconds:.0f} s)"
        )
        for finding in findings:
            if finding.verdict == FAIL or (finding.check, finding.verdict) not in self._said:
                tqdm.write("\n".join(finding_lines(finding)))
            self._said.add((finding.check, finding.verdict))
        for note in gathered(report.notes):
            tqdm.write(f"        {note}")


def finding_lines(finding: Finding) -> list[str]:
    """For the screen, as advice is said: what was seen, why, and what to do."""
    return [
        f"{finding.verdict}: {finding.check}: {evidence_text(finding.evidence)}",
        f"        {finding.cause}",
        f"        {finding.remedy}",
    ]


def worst(findings: list[Finding]) -> str:
    """The verdict over these findings."""
    verdicts = {finding.verdict for finding in findings}
    return FAIL if FAIL in verdicts else NOTE if NOTE in verdicts else PASS


def never() -> bool:
    """Nothing tells this run to stop."""
    return False


def refuse_sharded(trainer: JepaTrainer) -> None:
    """Raise `InputError` where an engine holds the weights in pieces."""
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise InputError(
            "diagnose: FSDP and DeepSpeed hold the weights in pieces; leave --diagnose out, and examine a checkpoint "
            "with python -m eval.diagnose"
        )


class _StoppedError(Exception):
    """A signal came while the doctor was looking."""


def _as_row(finding: Finding) -> dict[str, Any]:
    return {name: getattr(finding, name) for name in ("check", "verdict", "evidence", "threshold", "cause", "remedy")}
