"""The same faults under what exists: the plain Trainer with its own checks, and a test that memorises one batch.

    python -m tests.diagnose.rivals [--json FILE] [--markdown] [--only TEXT]

The Trainer catches a fault where 20 more steps raise, warn, or log a number that is not finite, and a healthy model of
the same family gives no such complaint. The memorise-one-batch test is the usual one: 200 steps of AdamW on one batch,
dropout off, at the best of three rates; it catches a fault where the loss does not come below 0.1, and where that of a
healthy model of the same family does.
"""

import argparse
import copy
import json
import logging
import math
import multiprocessing
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

STEPS = 20
MEMORISE_STEPS = 200
RATES = (1e-3, 3e-3, 1e-2)
MEMORISED = 0.1
ROWS = 4
HEALTHY, OURS = "none: healthy", "text_jepa"


@dataclass(frozen=True)
class Verdicts:
    """What the rivals say of one fault.

    Attributes:
        fault, architecture: what was planted, and where.
        family: of the model, by its configuration.
        trainer: how the Trainer complained.
        lowest_loss: of the memorise-one-batch test; None where it is not finite or the test raised.
        memorise: how the test complained; empty where the batch was memorised.
    """

    fault: str
    architecture: str
    family: str
    trainer: list[str]
    lowest_loss: float | None
    memorise: str


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    options = _parser().parse_args(argv)
    os.environ["OMP_NUM_THREADS"] = "1"
    told = []
    with ProcessPoolExecutor(options.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for verdicts in pool.map(compare, choose(options.only)):
            told.append(verdicts)
            print(_line(verdicts), file=sys.stderr, flush=True)
    if options.json:
        text = json.dumps([asdict(verdicts) for verdicts in told], indent=1)
        options.json.write_text(text + "\n", encoding="utf-8")
    if options.markdown:
        print(markdown(told))
    return 0


def markdown(told: Sequence[Verdicts]) -> str:
    """The table of docs/doctor.md."""
    usual = {verdicts.family: verdicts for verdicts in told if verdicts.fault == HEALTHY}
    faults = [verdicts for verdicts in told if verdicts.fault != HEALTHY]
    silent = Verdicts(HEALTHY, "", "", [], None, "")
    alike = [usual.get(one.family, silent) for one in faults]
    by_trainer = sum(bool(set(one.trainer) - set(well.trainer)) for one, well in zip(faults, alike, strict=True))
    by_batch = sum(bool(one.memorise) and not well.memorise for one, well in zip(faults, alike, strict=True))
    lines = ["| fault | planted in | plain Trainer | memorise one batch |", "|---|---|---|---|", *map(_line, told), ""]
    counted = f"Of {len(faults)} faults the Trainer catches {by_trainer}, memorising one batch {by_batch}."
    return "\n".join(
        [
            *lines,
            counted,
            "What a healthy model of the same family is told as well does not count. Neither says which fault it is.",
        ]
    )


def choose(only: str = "") -> list[tuple[str, str, int]]:
    """(fault, architecture, seed): a healthy model of each family first, then each fault once."""
    from tests.diagnose.faults import FAULTS

    healthy = [(HEALTHY, name, 0) for name in ("gpt2", "llama", "neox", "opt", "bert", OURS)]
    planted = [(fault.name, fault.architectures[0], fault.seed) for fault in FAULTS]
    return [task for task in healthy + planted if only.lower() in task[0].lower()]


def compare(task: tuple[str, str, int]) -> Verdicts:
    """Both rivals on one fault."""
    import torch

    from tests.diagnose.cases import healthy, ours
    from tests.diagnose.faults import FAULTS

    torch.set_num_threads(1)
    name, architecture, seed = task
    makers = {fault.name: fault.make for fault in FAULTS}
    if name == HEALTHY:
        case = ours(architecture) if architecture == OURS else healthy(architecture)
    else:
        case = makers[name](architecture, seed)
    lowest, memorise = _memorise(case)
    return Verdicts(name, architecture, case.model.config.model_type, _complaints(case), lowest, memorise)


def _complaints(case: Any) -> list[str]:
    """What the plain Trainer says of some more steps."""
    with tempfile.TemporaryDirectory() as folder, _heard() as heard:
        try:
            trainer = _own_trainer(case, folder)
            trainer.train()
        except Exception as error:  # whatever it is, that is its complaint
            return [f"raises {type(error).__name__}: {str(error).splitlines()[0][:80]}"]
    figures = [value for row in trainer.state.log_history for value in row.values() if isinstance(value, float)]
    if not all(map(math.isfinite, figures)):
        heard.append("logs a number that is not finite")
    return list(dict.fromkeys(heard))


def _memorise(case: Any) -> tuple[float | None, str]:
    """Lowest loss on one batch, and the complaint where it stays too high."""
    try:
        lowest = min((_lowest_loss(case, rate) for rate in RATES), key=lambda loss: (math.isnan(loss), loss))
    except Exception as error:  # as above
        return None, f"raises {type(error).__name__}"
    if not math.isfinite(lowest):
        return None, "the loss is not finite"
    return lowest, "" if lowest < MEMORISED else f"the loss stays at {lowest:.2f}"


def _lowest_loss(case: Any, rate: float) -> float:
    import torch

    model = copy.deepcopy(case.model).eval()
    collate, rows = _batches(case)
    torch.manual_seed(0)
    batch = collate(rows[:ROWS])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate, weight_decay=0.0)
    lowest = math.nan
    for _ in range(MEMORISE_STEPS):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        lowest = min(lowest, loss.item()) if math.isfinite(lowest) else loss.item()
        if lowest < MEMORISED:
            break
    return lowest


def _own_trainer(case: Any, folder: str) -> Any:
    """A plain Trainer for the case: of its own data, collator, rate and metric, where it came with a Trainer."""
    from transformers import Trainer, TrainingArguments

    collate, rows = _batches(case)
    given = case.trainer
    return Trainer(
        model=copy.deepcopy(case.model).train(),
        args=TrainingArguments(
            output_dir=folder,
            max_steps=STEPS,
            per_device_train_batch_size=8,
            learning_rate=1e-3 if given is None else given.args.learning_rate,
            logging_steps=5,
            save_strategy="no",
            eval_strategy="no" if given is None or given.compute_metrics is None else "steps",
            eval_steps=STEPS,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            remove_unused_columns=False,
        ),
        data_collator=collate,
        train_dataset=rows,
        eval_dataset=rows[:32],
        compute_metrics=None if given is None else given.compute_metrics,
    )


def _batches(case: Any) -> tuple[Callable[[Any], dict[str, Any]], list[dict[str, Any]]]:
    """Collator and rows: those of the case's Trainer, else the right ones for the kind of the model."""
    from tests.diagnose import architectures

    if case.trainer is not None:
        return case.trainer.data_collator, list(case.trainer.train_dataset.select(range(400)))
    texts = case.data["train"][:400]
    if case.model.config.is_encoder_decoder:
        return architectures.answers(case.tokenizer), architectures.halves(case.tokenizer, texts, True)
    if case.model.can_generate():
        rows = architectures.blocks_or_sentences(case.tokenizer, texts, True)
        return architectures.next_token(case.tokenizer), rows
    return architectures.fill_in(case.tokenizer), architectures.framed_sentences(case.tokenizer, texts, True)


@contextmanager
def _heard() -> Iterator[list[str]]:
    """Warnings of Python and of the library, as they are shown."""
    told: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append("warns: " + " ".join(record.getMessage().split())[:80])

    listener = Listener(logging.WARNING)
    logger = logging.getLogger("transformers")
    logger.addHandler(listener)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield told
        told += [
            f"warns: {' '.join(str(w.message).split())[:80]}" for w in caught if w.category is not DeprecationWarning
        ]
    finally:
        logger.removeHandler(listener)


def _line(verdicts: Verdicts) -> str:
    memorised = verdicts.memorise or f"silent: loss {verdicts.lowest_loss:.2f}"
    return f"| {verdicts.fault} | {verdicts.architecture} | {'; '.join(verdicts.trainer) or 'silent'} | {memorised} |"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.diagnose.rivals", description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="TEXT", help="faults whose name holds this text")
    parser.add_argument("--workers", type=int, default=2, help="processes, each of one thread [2]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the verdicts")
    parser.add_argument("--markdown", action="store_true", help="print the table of docs/doctor.md")
    return parser


if __name__ == "__main__":
    sys.exit(main())
