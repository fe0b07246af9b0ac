"""From a checked `Run` and prepared data to a model and a trainer."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import psutil
import torch
from huggingface_hub.errors import StrictDataclassError
from torch.utils.data import Dataset
from transformers import PreTrainedModel, TrainingArguments, set_seed
from transformers.integrations import get_available_reporting_integrations
from transformers.trainer_callback import PrinterCallback

from configuration_jepa import JepaConfig
from eval.loading import open_tokenizer
from training.cards.record import sizes_of
from training.cards.writing import write_checkpoint_card
from training.common.errors import InputError
from training.data.prepared import Prepared
from training.data.unknown import UNKNOWN_NOTE
from training.family import Family
from training.init_from.growing import check_origin, own_start, take_weights
from training.optim.schedule import scheduler_arguments
from training.run.run import Run
from training.run.state import RunState
from training.runtime.memory import TrimMemory
from training.runtime.precision import settle_precision
from training.runtime.processes import wants_cpu
from training.runtime.signals import SignalWatch
from training.trainer.advice import Advise
from training.trainer.callbacks import HeldOut, SamplePhrases, SaveOnSignal, ShowSamples, TeacherUpdate
from training.trainer.diagnosing import Diagnose, never, refuse_sharded
from training.trainer.log_file import JsonlLog
from training.trainer.progress import Progress
from training.trainer.streams import StreamReport
from training.trainer.trainer import JepaTrainer, TrainingParts


def prepare_data(run: Run, family: Family) -> Prepared:
    """The run's rows as token ids; with `init_from`, by that checkpoint's tokenizer. Raises `InputError`."""
    check_origin(run, family)
    config = family.config_class(**run.config_fields)
    tokenizer = None if run.init_from is None else open_tokenizer(own_start(run) or run.init_from)
    prepared = family.data.prepare(run.data, config, tokenizer)
    if run.evaluation.final_score:
        _ = prepared.test  # a test part that cannot be used should not come to light after the last step
    return prepared


def with_steps(run: Run, prepared: Prepared, num_processes: int = 1) -> Run:
    """The run with the steps that its epochs take, where its length was given in epochs."""
    if run.training.num_train_epochs is None:
        return run
    settings = run.training
    rows = settings.per_device_train_batch_size * settings.gradient_accumulation_steps * num_processes
    steps = math.ceil(settings.num_train_epochs * len(prepared.train) / rows)
    return run.with_settings(training={"max_steps": max(1, steps)})


def build_config(run: Run, family: Family, prepared: Prepared) -> JepaConfig:
    """The recipe's configuration, with what the data decide of it. Raises `InputError`."""
    tokenizer = prepared.tokenizer
    special = ("pad_token_id", "unk_token_id", "mask_token_id", "bos_token_id", "eos_token_id")
    from_tokenizer = {name: getattr(tokenizer, name) for name in special} | {"vocab_size": len(tokenizer)}
    try:
        return family.config_class(**run.config_fields, **from_tokenizer, **family.config_from(prepared))
    except (ValueError, StrictDataclassError) as error:
        raise InputError(" ".join(str(error.__cause__ or error).split())) from None


def build_model(run: Run, family: Family, config: JepaConfig, prepared: Prepared) -> PreTrainedModel:
    """A model whose initial weights are a function of the seed; with `init_from`, the weights of that checkpoint.

    Of the prepared data it is told the counts of its tokens, and what else its family puts into it.
    """
    _refuse_too_large(family, config)
    set_seed(run.training.seed)
    model = family.model_class(config)
    family.put_in(model, prepared)
    if run.init_from is not None and own_start(run) is None:
        take_weights(model, family, run)
        if hasattr(model, "token_counts"):  # of this run's data, whatever the weights learnt from
            model.token_counts.copy_(torch.as_tensor(prepared.counts))
    family.start(model, run)
    if run.training.adapts_checkpoint:
        from training.init_from.adapters import add_lora  # and with it peft, which takes a second

        add_lora(model, run.training.lora_rank)
    return model


def build_trainer(
    run: Run,
    family: Family,
    prepared: Prepared,
    model: PreTrainedModel,
    run_state: RunState,
    watch: SignalWatch | None = None,
) -> JepaTrainer:
    """The trainer with everything that hangs on it. It does nothing before `train()`."""
    _refuse_too_few_rows(run, len(prepared.train))
    arguments = training_arguments(run)

    score_beside = family.scores_beside(run, prepared)

    def score(model: PreTrainedModel) -> dict[str, Any]:
        (first_name, first_figure), *rest = family.score_held_out(model, prepared, run.evaluation.eval_rows).items()
        figures, beside = {first_name: first_figure, **score_beside(model), **dict(rest)}, prepared.figures_of("valid")
        first = beside.get("unknown_share", 0.0) > UNKNOWN_NOTE  # a line of the screen shows the first figures
        return {**beside, **figures, **beside} if first else {**figures, **beside}

    parts = build_parts(run, family, prepared, model.config, arguments, score)
    parts = replace(parts, write_card=partial(write_checkpoint_card, run, family, sizes_of(model)))
    phrases = SamplePhrases(run.evaluation.sample_phrases, family.make_sample(prepared), prepared.tokenizer)
    callbacks = [
        TeacherUpdate(run_state),
        HeldOut(run.evaluation, run_state, phrases),
        JsonlLog(),
        Progress(run, family),
    ]
    trainer = JepaTrainer(model, arguments, prepared.tokenizer, parts, run_state, callbacks)
    trainer.remove_callback(PrinterCallback)  # our progress says it
    trainer.add_callback(Advise(family.facts(run, model.config, prepared, trainer.rows_per_step), run_state))
    trainer.add_callback(TrimMemory())
    if run.evaluation.sample_steps is not None:
        trainer.add_callback(ShowSamples(run.evaluation.sample_steps, phrases, trainer.window.stop_clock))
    if run.data.streaming:
        trainer.add_callback(StreamReport(run_state))
    if run.diagnose or run.diagnose_steps is not None:
        refuse_sharded(trainer)
        stopping = watch.told_to_stop if watch is not None else never
        trainer.add_callback(Diagnose(trainer, run.diagnose_steps, stopping, from_nothing=run.init_from is None))
    if watch is not None:
        trainer.add_callback(SaveOnSignal(watch, any_process=_any_process(trainer)))
    return trainer


def build_parts(
    run: Run,
    family: Family,
    prepared: Prepared,
    config: JepaConfig,
    arguments: TrainingArguments,
    score: Callable[[PreTrainedModel], dict[str, Any]],
) -> TrainingParts:
    """The run's rows, batches and masks.

    Args:
        config: of the loss; the negatives are drawn as it says.
        score: model -> held-out figures.
    """
    dataset, lengths = _training_rows(run, family, prepared, arguments)
    masker = family.data.make_masker(
        run.masking,
        prepared.tokenizer,
        seed=run.training.seed,
        config=config,
        token_counts=prepared.counts,
    )
    return TrainingParts(
        dataset=dataset,
        collator=family.data.make_collator(prepared.tokenizer),
        masker=masker,
        step_inputs=family.data.make_step_inputs(
            prepared.tokenizer, seed=run.training.seed, config=config, token_counts=prepared.counts
        ),
        score=score,
        save_total_limit=run.training.save_total_limit,
        lengths=lengths,
        on_non_finite=run.training.on_non_finite,
        make_optimizer=partial(family.make_optimizer, run=run),
        credit=family.credit(run),
        adapters=_adapters(run, family) if run.training.lora_rank else None,
        perplexity_of=family.perplexity_of,
        count_tokens=family.count_tokens,
    )


def training_arguments(run: Run) -> TrainingArguments:
    """Our settings as the library's."""
    settings = run.training
    check_device(run)
    # Given only where they are asked for: `accelerate launch` may have its own say about precision.
    switches = ("bf16", "fp16", "gradient_checkpointing", "torch_compile")
    arguments = TrainingArguments(
        output_dir=str(run.output_dir),
        max_steps=settings.max_steps,
        per_device_train_batch_size=settings.per_device_train_batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        adam_beta1=settings.adam_beta1,
        adam_beta2=settings.adam_beta2,
        max_grad_norm=settings.max_grad_norm,
        seed=settings.seed,
        logging_steps=settings.logging_steps,
        save_steps=settings.save_steps,
        dataloader_num_workers=settings.dataloader_num_workers,
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to=[name.strip() for name in settings.report_to.split(",")],
        run_name=settings.run_name or run.output_dir.name,
        use_cpu=wants_cpu(run),
        ddp_find_unused_parameters=False,  # every parameter has its part in the loss, and looking costs time
        disable_tqdm=True,
        remove_unused_columns=False,
        logging_nan_inf_filter=False,
        eval_on_start=0 in run.evaluation.milestones,
        # A stream goes on from its cursor, and every process reads its own batches.
        ignore_data_skip=run.data.streaming,
        accelerator_config={"dispatch_batches": False} if run.data.streaming else None,
        **{name: True for name in switches if getattr(settings, name)},
        **scheduler_arguments(settings),
    )
    return settle_precision(arguments, run)


def check_device(run: Run) -> None:
    """Refuse a device that is not here. Raises `InputError`."""
    available = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if run.device in available and not available[run.device]():
        raise InputError(f"device: {run.device} is not available here; use --device cpu, or leave it out")
    if run.training.fp16 and not torch.cuda.is_available():
        raise InputError("fp16: needs a CUDA device; use bf16, or leave it out")


def _training_rows(
    run: Run, family: Family, prepared: Prepared, arguments: TrainingArguments
) -> tuple[Dataset, np.ndarray | None]:
    """The data set, and the lengths by which its rows are grouped (a stream groups them itself)."""
    grouped = run.training.group_by_length
    if not run.data.streaming:
        dataset = family.data.make_dataset(prepared.train)
        return dataset, dataset.lengths if grouped else None
    turn = arguments.train_batch_size * arguments.world_size
    step = turn * arguments.gradient_accumulation_steps
    seed = run.training.seed
    return family.data.make_stream(prepared, seed=seed, turn=turn, group_size=step if grouped else None), None


def check_trackers(run: Run) -> None:
    """Refuse a tracker that is not installed. Raises `InputError`."""
    asked = {name.strip() for name in run.training.report_to.split(",")} - {"none", "all"}
    missing = sorted(asked - set(get_available_reporting_integrations()))
    if missing:
        raise InputError(f"report_to: {', '.join(missing)} is not installed here; install it, or use --report_to none")


def _adapters(run: Run, family: Family) -> Any:
    """How a model with LoRA is saved; beside a pretrained decoder more than the adapters learns."""
    from training.init_from.adapters import AdaptedFrom, Adapters

    if not run.training.adapts_checkpoint:
        return Adapters()
    return Adapters(AdaptedFrom(run.init_from, family.auto_class.__name__))


def _refuse_too_large(family: Family, config: JepaConfig) -> None:
    """Count the parameters without making them: some systems promise any memory, and kill who uses it."""
    has = psutil.virtual_memory().total
    try:
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in family.model_class(config).parameters())
    except (RuntimeError, OverflowError):  # a single tensor beyond all numbers
        count = has
    if 4 * count > has:
        raise InputError(
            f"hidden_size={config.hidden_size}: the weights alone need more memory than the {has / 2**30:,.1f} GiB of "
            "this machine; take a smaller hidden_size, intermediate_size, num_hidden_layers or max_vocab"
        )


def _refuse_too_few_rows(run: Run, rows: int) -> None:
    batch = run.training.per_device_train_batch_size
    if rows < batch:
        raise InputError(
            f"data: {run.data.data} gives {rows} training rows, fewer than one batch of {batch}; "
            "use more text, or a smaller per_device_train_batch_size"
        )


def _any_process(trainer: JepaTrainer) -> Callable[[bool], bool]:
    """Whether a thing holds in any process; all of them must ask."""

    def any_process(here: bool) -> bool:
        if trainer.args.world_size == 1:
            return here
        flag = torch.tensor(float(here), device=trainer.args.device)
        return bool(trainer.accelerator.reduce(flag, reduction="sum") > 0)

    return any_process
