"""The pipeline `reply`: a message, or a whole conversation, to what a dialogue model answers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from transformers import Pipeline
from transformers.utils.chat_template_utils import Chat

from configuration_jepa.configuration_dialogue_jepa import DialogueJepaConfig


class ReplyPipeline(Pipeline):
    """Says replies. It travels with every dialogue checkpoint, and knows nothing of files beside model and tokenizer.

    Args:
        context_turns: the last turns of a conversation that the model reads; None for all that it has places for.

    Example:
        >>> answer = pipeline("reply", model="user/name", trust_remote_code=True)  # doctest: +SKIP
        >>> answer("how are you?", do_sample=False)  # doctest: +SKIP
        [{'reply': 'i am fine.'}]
    """

    model: Any
    tokenizer: Any
    _load_tokenizer: Any = True
    _load_processor: Any = False
    _load_image_processor: Any = False
    _load_video_processor: Any = False
    _load_feature_extractor: Any = False
    _pipeline_calls_generate = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        kind = self.model.config.model_type
        if kind != DialogueJepaConfig.model_type:
            raise ValueError(f"model is a {kind} model: the pipeline 'reply' takes a {DialogueJepaConfig.model_type}.")

    def __call__(self, inputs: Any, **settings: Any) -> Any:  # type: ignore[override] # no stray arguments
        """Answer one conversation, or each of a list of them.

        Args:
            inputs: a text is a message; a tuple or a list of texts within a list, the turns of a conversation, the
                message last; so is a list of `{"role": ..., "content": ...}`, of which what a system or a tool says is
                left out. A list of these gives one answer each.
            **settings: `context_turns`, and all that `generate` takes: `do_sample=False` is greedy,
                `num_return_sequences=3` gives three replies.

        Returns:
            For each conversation a list of `{"reply": text}`, as many as sequences are asked for.

        Raises:
            ValueError: no conversation, an empty turn or conversation, or a setting that there is not.
        """
        if not isinstance(inputs, Iterable) or inputs == []:
            raise ValueError(f"inputs is {inputs!r}: give a message, the turns of a conversation, or a list of these.")
        if isinstance(inputs, tuple):  # a list would be taken for several conversations
            return super().__call__([list(inputs)], **settings)[0]
        return super().__call__(inputs, **settings)

    def _sanitize_parameters(
        self, context_turns: int | None = None, **generate_kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if context_turns is not None and context_turns < 1:
            raise ValueError(f"context_turns={context_turns} is not possible: it must be None or at least 1.")
        return {} if context_turns is None else {"context_turns": context_turns}, generate_kwargs, {}

    def preprocess(  # type: ignore[override] # as in the library's own pipelines
        self, conversation: str | Sequence[str] | Chat, context_turns: int | None = None
    ) -> dict[str, torch.Tensor]:
        """Token ids of a context, `(1, T)`: `begin turn end turn end ...`, kept from its end where it is too long."""
        turns = _turns(conversation)[-(context_turns or 0) :]
        end, ids = self.model.config.eos_token_id, []
        for turn in turns:
            # What looks like a special token is text: a message cannot end its own turn.
            ids += [*self.tokenizer(turn, add_special_tokens=False, split_special_tokens=True)["input_ids"], end]
        kept = ids[-(self.model.config.max_position_embeddings - 1) :]
        input_ids = torch.tensor([[self.model.config.bos_token_id, *kept]])
        return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}

    def _forward(  # type: ignore[override] # as in the library's own pipelines
        self, inputs: dict[str, torch.Tensor], **generate_kwargs: Any
    ) -> dict[str, torch.Tensor]:
        said = self.model.generate(**inputs, **self._prepare_generate_kwargs(generate_kwargs))
        rows = len(inputs["input_ids"])
        return {"replies": said.view(rows, len(said) // rows, -1)}

    def postprocess(  # type: ignore[override] # as in the library's own pipelines
        self, outputs: dict[str, torch.Tensor]
    ) -> list[dict[str, str]]:
        """The replies to one conversation."""
        texts = self.tokenizer.batch_decode(outputs["replies"][0], skip_special_tokens=True)
        return [{"reply": text.strip()} for text in texts]


def _said(messages: Any) -> list[Any]:
    """What people say in messages: nothing of a system or a tool, no empty turn; what a role says in a row is one."""
    texts: list[Any] = []
    last = None
    for message in messages:
        role, content = message["role"], message["content"]
        if role in ("system", "developer", "tool", "function") or content in (None, ""):
            continue
        if role == last and isinstance(content, str) and isinstance(texts[-1], str):
            texts[-1] = f"{texts[-1]} {content}"
        else:
            texts.append(content)
        last = role
    return texts


def _turns(conversation: str | Sequence[str] | Chat) -> list[str]:
    """The turns of one conversation, each on one line; raises `ValueError` where one is empty or none is there."""
    texts: list[Any]
    if isinstance(conversation, str):
        texts = [conversation]
    elif isinstance(conversation, Chat):
        texts = _said(conversation.messages)
    elif isinstance(conversation, Iterable) and not isinstance(conversation, Mapping):
        texts = list(conversation)
    else:
        texts = [conversation]
    if wrong := [text for text in texts if not isinstance(text, str)]:
        raise ValueError(f"a turn is {wrong[0]!r}: give texts, or a list of {{'role': ..., 'content': text}}.")
    turns = [" ".join(text.split()) for text in texts]
    if not turns or not all(turns):
        raise ValueError("a conversation needs at least one turn, and none of them empty: say something.")
    return turns
