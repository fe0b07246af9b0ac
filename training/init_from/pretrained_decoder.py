"""A pretrained causal language model in the place of a dialogue model's decoder.

Its configuration and its tokenizer become the run's before the data is read; its weights are put in once the model is
built, and travel in every checkpoint from then on.
"""

from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from eval.loading import checked_name, open_model, open_tokenizer
from training.common.errors import InputError
from training.data.settings import TRAINED_TOKENIZERS
from training.data.tokenization import open_given
from training.init_from.adapters import add_lora
from training.run.run import Run
from training.settings.recipes import config_class_of

# Where and by what a checkpoint was written says nothing of the model.
_NOT_THE_MODEL = ("_name_or_path", "architectures", "transformers_version", "dtype", "torch_dtype")
_ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}  # kinds of layers


def with_pretrained_decoder(run: Run) -> Run:
    """The run with the decoder's configuration and tokenizer; unchanged where it has none.

    Raises:
        InputError: no causal language model there, another tokenizer is asked for, or its positions do not suffice.
    """
    name = run.training.pretrained_decoder
    if name is None:
        return run
    config = _config_of(name)
    _refuse_another_tokenizer(run, name)
    given = {key: value for key, value in config.to_dict().items() if key not in _NOT_THE_MODEL}
    given["model_type"] = config.model_type
    # The number of layers is what a cache is made for.
    model = {"decoder_config": given, "decoder_layers": config.num_hidden_layers}
    run = run.with_settings(model=model, data={"tokenizer": name})
    _refuse_too_few_positions(run, config)
    return run


def put_in(model: PreTrainedModel, run: Run) -> None:
    """Load the decoder's own weights, and freeze it or add LoRA to it where that is asked for.

    Raises:
        InputError: it cannot be opened, or knows fewer tokens than the run's tokenizer has.
    """
    settings = run.training
    source = open_model(settings.pretrained_decoder, AutoModelForCausalLM, "cpu")
    decoder = model.decoder.language_model
    known, needed = decoder.get_input_embeddings().weight.shape[0], model.config.vocab_size
    if known < needed:
        raise InputError(
            f"pretrained_decoder: {settings.pretrained_decoder} knows {known:,} tokens, and the tokenizer has "
            f"{needed:,}; give a model with a tokenizer that has a begin or an end token of its own"
        )
    decoder.load_state_dict(source.state_dict())
    if settings.freeze_decoder:
        decoder.requires_grad_(False)
    elif settings.lora_rank:
        add_lora(decoder, settings.lora_rank)


def _config_of(name: str) -> Any:
    try:
        config = AutoConfig.from_pretrained(checked_name(name))
    except InputError as error:
        raise InputError(f"pretrained_decoder: {error}") from None
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"pretrained_decoder: {name} cannot be opened: {reason}") from None
    if config.is_encoder_decoder or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise InputError(
            f"pretrained_decoder: {name} is a {config.model_type} model, which is no causal language model of the "
            "library; give one such as gpt2"
        )
    kinds = set(getattr(config, "layer_types", None) or ()) - _ATTENTION
    if kinds or getattr(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], "_is_stateful", False):
        raise InputError(
            f"pretrained_decoder: {name} is a {config.model_type} model, whose layers keep a state that cannot pass "
            "over padding behind a soft prefix; give a model of attention alone, such as gpt2"
        )
    return config


def _refuse_another_tokenizer(run: Run, name: str) -> None:
    """The decoder says tokens of its own vocabulary, so a run with it has no other."""
    asked = run.data.tokenizer
    if asked != name and asked not in TRAINED_TOKENIZERS and _vocabulary(asked) != _vocabulary(name):
        raise InputError(
            f"tokenizer: {asked} is not that of pretrained_decoder {name}; leave it out, and the decoder's is used"
        )
    if run.init_from is not None and open_tokenizer(run.init_from).get_vocab() != _vocabulary(name):
        raise InputError(
            f"init_from: {run.init_from} has another tokenizer than pretrained_decoder {name}; train the encoder with "
            "--tokenizer of that decoder, or leave one of the two out"
        )


def _vocabulary(name: str) -> dict[str, int]:
    return open_given(name).get_vocab()


def _refuse_too_few_positions(run: Run, config: Any) -> None:
    """Raise `InputError` where soft prefix and reply are longer than the decoder."""
    ours, theirs = config_class_of(run.family)(**run.config_fields), config.to_dict()
    longest = theirs.get("max_position_embeddings", theirs.get("n_positions"))
    prefix = ours.num_latents * ours.prefix_length
    context = ours.max_position_embeddings if ours.context_access == "both" else 0
    needed = prefix + context + ours.max_reply_length
    if longest is not None and needed > longest:
        raise InputError(
            f"pretrained_decoder: {run.training.pretrained_decoder} takes {longest} positions and needs {needed} here "
            f"(soft prefix {prefix}, context {context}, reply {ours.max_reply_length}); lower num_latents, "
            "prefix_length or max_reply_length"
        )
