"""What every family's recipes refuse, by their quickstarts: one line that names the setting."""

from pathlib import Path

import pytest

from training.common.errors import InputError
from training.run.arguments import parse_arguments
from training.settings.recipes import family_names

RECIPES = Path(__file__).resolve().parents[2] / "training" / "recipes"

EVERYWHERE = [
    ("--lerning_rate 1", "did you mean --learning_rate?"),
    ("--max_step=3", "did you mean --max_steps?"),
    ("--max_steps many", "max_steps: got 'many'; use a whole number"),
    ("--max_steps 1.5", "max_steps: got '1.5'; use a whole number"),
    ("--max_steps 0", "max_steps: got 0; use 1 or more"),
    ("--bf16 maybe", "bf16: got 'maybe'; use true or false"),
    ("--learning_rate nan", "learning_rate: got nan; use a finite number"),
    ("--learning_rate 1e-9", "must lie between 0 and learning_rate=1e-09"),
    ("--max_steps 12 --warmup_steps 12", "warmup_steps=12 must be below max_steps=12"),
    ("--num_attention_heads 3", "num_attention_heads"),
    ("--best_metric loss", "best_metric: got 'loss'; use one of"),
    ("--lora_rank 2", "lora_rank=2 adapts a model that is there: give its checkpoint with --init_from"),
    ("--device tpu", "device: got 'tpu'; use one of"),
    ("--bf16 --fp16", "bf16=true and fp16=true exclude each other"),
]
OWN = {
    "text_jepa": [
        ("--mask_rate 0", "mask_rate: got 0.0"),
        ("--mask_rate 1", "mask_rate: got 1.0"),
        ("--masking span --max_span_length 99", "max_span_length=99 is more than a phrase can hold"),
        ("--temperature 0", "temperature"),
        ("--head linear", "head='linear' is not possible: it must be one of cosine, softmax"),
        ("--stage 1", "family text_jepa has no stages"),
    ],
    "text_classifier": [
        ("--mask_rate 0.2", "unknown flag --mask_rate"),
        ("--problem_type classes", "problem_type: got 'classes'; use one of auto, single_label_classification"),
        ("--long_rows windows", "long_rows: got 'windows'; use one of cut"),
        ("--split_sentences", "a label is of its whole row"),
        ("--streaming", "streaming: labelled rows are not streamed"),
        ("--stage 1", "stage: family text_classifier has no stages"),
    ],
    "staged_generator": [
        ("--credit on", "credit: got 'on'; use one of auto, off, analyse, scale"),
        ("--credit_rest 1.5", "credit_rest: got 1.5; use a share from 0 to 1"),
        ("--credit_steps 0", "credit_steps: got 0; use 1 or more"),
        ("--optimizer sgd", "optimizer: got 'sgd'; use one of adamw, muon"),
        ("--mask_rate 0.2", "unknown flag --mask_rate"),
        ("--stage 4", "stage=4 is not possible: it must be from 0 to 3"),
        ("--stage -1", "stage=-1 is not possible: it must be from 0 to 3"),
        ("--stage 3 --routing_occurrences 0", "routing_occurrences=0 is not possible"),
        ("--gate_rate 0", "gate_rate: got 0.0; use a number above 0"),
        ("--num_semantic_blocks 3", "embedding_size=128 is not a multiple of num_semantic_blocks=3"),
        ("--tokenizer word", "tokenizer: got 'word'"),
    ],
    "dialogue_jepa": [
        ("--optimizer sgd", "optimizer: got 'sgd'; use one of adamw, muon"),
        ("--decoder_learning_rate 0", "decoder_learning_rate: got 0.0; use a rate above 0"),
        ("--decoder_latent both", "decoder_latent='both' is not possible: it must be one of predicted, target"),
        ("--context_access all", "context_access='all' is not possible: it must be one of latent, both"),
        ("--lora_rank 2", "--init_from, or a pretrained_decoder"),
        ("--freeze_decoder", "freeze_decoder=true is for a pretrained decoder"),
        ("--pretrained_decoder x --freeze_decoder --lora_rank 2", "exclude each other: keep one"),
        ("--pretrained_decoder x --tokenizer bpe", "tokenizer: bpe was asked for, and pretrained"),
        ("--decoder_config {}", "unknown flag --decoder_config"),
        ("--streaming", "streaming: replies are not streamed"),
        ("--stage 1", "stage: family dialogue_jepa has no stages"),
    ],
    "video_jepa": [
        ("--sample_phrases cat", "sample_phrases: got ['cat']; use numbers of held-out clips"),
        ("--optimizer sgd", "optimizer: got 'sgd'; use one of adamw, muon"),
        ("--best_metric mrr", "best_metric: got 'mrr'; use one of mse"),
        ("--data builtin:digits", "unknown flag --data"),
    ],
}
QUICKSTARTS = {family: RECIPES / family / "quickstart.yaml" for family in family_names()}
QUICKSTARTS["text_classifier"] = RECIPES / "text_jepa" / "classify.yaml"
CASES = [(family, *case) for family in family_names() for case in [*EVERYWHERE, *OWN[family]]]


@pytest.mark.parametrize(("family", "flags", "said"), CASES)
def test_a_bad_flag_is_refused_in_one_line_that_names_it(family: str, flags: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_arguments([str(QUICKSTARTS[family]), *flags.split()])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
