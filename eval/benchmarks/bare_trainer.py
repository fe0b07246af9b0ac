"""The trainer of every cell: rows, masks and loss of a run, without what chooses and saves checkpoints."""

from transformers import PreTrainedModel
from transformers.trainer_utils import SaveStrategy

from configuration_jepa import JepaConfig
from eval.benchmarks.exam import Examiner
from modeling_jepa import JepaPreTrainedModel
from training.data.prepared import Prepared
from training.family import Family
from training.run.run import Run
from training.run.state import RunState
from training.trainer.build import build_parts, training_arguments
from training.trainer.callbacks import TeacherUpdate
from training.trainer.trainer import JepaTrainer


def bare_trainer(
    run: Run,
    family: Family,
    prepared: Prepared,
    model: PreTrainedModel,
    watch: Examiner,
    loss: JepaConfig | None = None,
) -> JepaTrainer:
    """A trainer that writes nothing; `loss` holds the settings of the loss where the model's config has none."""
    arguments = training_arguments(run)
    arguments.save_strategy, arguments.eval_on_start = SaveStrategy.NO, False
    parts = build_parts(run, family, prepared, loss or model.config, arguments, score=lambda model: {})
    state = RunState()
    follow = [TeacherUpdate(state)] if isinstance(model, JepaPreTrainedModel) else []
    return JepaTrainer(model, arguments, prepared.tokenizer, parts, state, [*follow, watch])
