"""A small Llama of words, pretrained on dialogues: what `pretrained_decoder` puts in the place of a decoder.

    python -m eval.benchmarks.small_llama --data PATH/TO/dailydialog --output_dir outputs/small_llama

The library's own model and trainer; the vocabulary is that of the recipe, made from the training part, and it learns
to go on with the training dialogues, turn after turn, each between a begin and an end token. The folder is a plain
checkpoint for `AutoModelForCausalLM` and `AutoTokenizer`. Exit codes: 0; 2 bad input.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from transformers import (
    DataCollatorForLanguageModeling,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)

from eval.benchmarks.exams.runs import parse_run
from eval.command import new_parser, run_command
from training.common.errors import InputError
from training.data.dialogue_jepa.dialogues import load_dialogues
from training.data.settings import DialogueDataSettings
from training.families import load_family
from training.runtime.precision import cpu_has_bfloat16
from training.trainer.build import prepare_data

RECIPE = str(Path("training") / "recipes" / "dialogue_jepa" / "dailydialog_cpu.yaml")
WINDOW = 128  # tokens
HEAD = 32
ROOM = 256  # positions, so that a soft prefix fits before a reply


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see the module."""
    return run_command(_parser(), pretrain, argv)


def pretrain(options: argparse.Namespace) -> None:
    """Train and save model and tokenizer.

    Raises:
        InputError: a width without whole heads, a number that is none, another family's recipe, or no dialogues there.
    """
    if options.hidden_size < HEAD or options.hidden_size % HEAD:
        raise InputError(f"hidden_size: got {options.hidden_size}; use a multiple of {HEAD}, the width of a head")
    for name in ("steps", "layers", "learning_rate"):
        if vars(options)[name] <= 0:
            raise InputError(f"{name}: got {vars(options)[name]}; use a number above 0")
    run = parse_run(options.recipe, {"data": options.data}, options.seed, options.steps, Path("unused"))
    if not isinstance(run.data, DialogueDataSettings):
        raise InputError(f"recipe: {options.recipe} is of {run.family}; give one of dialogue_jepa")
    tokenizer = prepare_data(run, load_family(run.family)).tokenizer
    turns = load_dialogues(run.data, "train").turns
    windows = [{"input_ids": ids} for ids in windows_of(turns, tokenizer)]
    set_seed(options.seed)
    model = LlamaForCausalLM(config_for(tokenizer, options.hidden_size, options.layers))
    trainer = Trainer(
        model,
        TrainingArguments(
            output_dir=options.output_dir,
            max_steps=options.steps,
            per_device_train_batch_size=32,
            learning_rate=options.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=options.steps // 20,
            weight_decay=0.1,
            bf16=cpu_has_bfloat16(),
            use_cpu=True,
            seed=options.seed,
            logging_steps=100,
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=windows,  # type: ignore[arg-type] # a list is one
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    )
    trainer.train()
    model.save_pretrained(options.output_dir)
    tokenizer.save_pretrained(options.output_dir)
    print(f"{options.output_dir}: a pretrained Llama and its tokenizer")


def config_for(tokenizer: PreTrainedTokenizerFast, hidden_size: int, layers: int) -> LlamaConfig:
    """Heads of `HEAD`, tied tables."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=hidden_size * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=hidden_size // HEAD,
        max_position_embeddings=ROOM,
        tie_word_embeddings=True,
        **{f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")},
    )


def windows_of(dialogues: Iterable[Sequence[str]], tokenizer: PreTrainedTokenizerFast) -> Iterator[list[int]]:
    """Tokens of up to `WINDOW` of a dialogue, each window from the beginning of a turn; what is longer is cut."""
    begin, end = [tokenizer.bos_token_id], [tokenizer.eos_token_id]
    for turns in dialogues:
        window: list[int] = []
        for ids in tokenizer(list(turns), add_special_tokens=False, verbose=False)["input_ids"]:
            turn = [*begin, *ids[: WINDOW - 2], *end]
            if len(window) + len(turn) > WINDOW:
                yield window
                window = []
            window += turn
        if window:
            yield window


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("eval.benchmarks.small_llama", __doc__)
    parser.add_argument("--data", required=True, help="dialogues, as in the recipe; such as a folder")
    parser.add_argument("--output_dir", required=True, help="folder of the checkpoint")
    parser.add_argument("--recipe", default=RECIPE, help="recipe of data and vocabulary (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=600, help="of 32 windows (default: %(default)s)")
    parser.add_argument("--learning_rate", type=float, default=3e-3, help="its peak (default: %(default)s)")
    parser.add_argument("--hidden_size", type=int, default=128, help="a multiple of 32 (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=4, help="blocks (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and order (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
