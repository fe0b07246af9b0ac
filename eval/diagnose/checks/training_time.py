"""Where a training step's time goes (X11): waiting for data, or computing."""

import time
from typing import Any

import torch

from eval.diagnose import thresholds as limits
from eval.diagnose.checks.check import ANY, check
from eval.diagnose.probes.anatomy import check_room_to_train
from eval.diagnose.report.report import FAIL, NOTE, Finding, Rule
from eval.diagnose.subject.onlooker import batches_of, unchanged
from eval.diagnose.subject.subject import Subject


@check(
    "training.time",
    f"under {limits.WAITING_NOTE:.0%} of a step's time waits for data",
    kinds=ANY,
    needs="trainer",
)
def step_time(subject: Subject, rule: Rule) -> Finding | list[Finding]:
    """Seconds that a step waits for its batch, and that it computes: some steps on a copy, without the optimizer."""
    assert subject.trainer is not None
    check_room_to_train(subject)
    waiting, computing, tokens = [], [], []
    twin, began = subject.copy(dropout=True), time.monotonic()
    with unchanged(subject.trainer):
        batches = batches_of(subject.trainer)
        while len(waiting) <= limits.BATCHES_TO_TIME and time.monotonic() - began < limits.SECONDS_TO_TIME:
            asked = time.monotonic()
            batch = next(batches, None)
            if batch is None:
                break
            given = time.monotonic()
            with torch.enable_grad():
                subject.trainer.compute_loss(twin, dict(batch)).backward()
            twin.zero_grad(set_to_none=True)
            if subject.device.type == "cuda":
                torch.cuda.synchronize(subject.device)
            waiting.append(given - asked)
            computing.append(time.monotonic() - given)
            tokens.append(batch["input_ids"].numel() if "input_ids" in batch else 0)
    if len(waiting) < 2:
        return []
    # The first batch starts workers, and the first step makes its kernels.
    waited, computed, seen = sum(waiting[1:]), sum(computing[1:]), sum(tokens[1:])
    share = waited / (waited + computed)
    evidence: dict[str, Any] = {
        "waiting_share": share,
        "seconds_waiting_a_step": waited / len(waiting[1:]),
        "seconds_computing_a_step": computed / len(waiting[1:]),
        "tokens_per_second": seen / (waited + computed),
        "steps": len(waiting[1:]),
    }
    if share < limits.WAITING_NOTE:
        return rule.passed(evidence)
    return rule.found(
        FAIL if share > limits.WAITING_FAIL else NOTE,
        evidence,
        f"{share:.0%} of a step waits for its batch: reading, tokenizing or masking is slower than the model",
        "tokenize once and keep the result (datasets.map), set dataloader_num_workers to 2 or more, and do no work "
        "row by row in the collator",
    )


CHECKS = (step_time,)
