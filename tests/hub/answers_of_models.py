"""What a model answers through every Auto class and pipeline, as tensors; and, as a program, what a stranger gets.

    python -I answers_of_models.py ASKED.json ANSWERS.safetensors

ASKED is {repository: [revisions]}. All are opened by their own code from the Hub, and the snippets of their cards are
run; the packages of this project cannot be imported there. It prints JSON: {repository: what its snippets printed}.
"""

import contextlib
import io
import json
import re
import sys

PROMPTS = {
    "fill-mask": "the red [MASK] sees",
    "feature-extraction": "the red dog sees",
    "text-generation": "the red dog",
    "reply": "do you see the cat?",
}
GENERATING = {
    "text-generation": {"do_sample": False, "max_new_tokens": 5},
    "reply": {"do_sample": False},
    "frame-prediction": {"mode": "sample", "seed": 0, "num_frames": 2},
}


def answers_of(place, revision=None, trust=False):
    """Auto class or pipeline -> its answer, of a folder or a repository.

    Args:
        trust: open it by the code that lies beside the weights.
    """
    import torch
    import transformers

    given = {"revision": revision, "trust_remote_code": trust}
    config = transformers.AutoConfig.from_pretrained(place, **given)
    inputs = inputs_of(config)
    answers = {}
    for name in config.auto_map:
        if name == "AutoConfig" or "Classification" in name:  # a classifier's layer is not there yet
            continue
        model, info = getattr(transformers, name).from_pretrained(place, output_loading_info=True, **given)
        assert not any(info.values()), info
        assert type(model).__module__.startswith("transformers_modules.") == trust
        with torch.no_grad():
            answers[name] = model.eval()(**inputs)[0].contiguous()
    if config.model_type != "video_jepa":
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, **given)
        answers["AutoTokenizer"] = torch.tensor(tokenizer("the red dog sees the old cat").input_ids)
    for task in tasks_of(config):
        pipe = transformers.pipeline(task, model=place, device="cpu", **given)
        asked = inputs["frames"][0].numpy() if task == "frame-prediction" else PROMPTS[task]
        answers[task] = as_tensor(pipe(asked, **GENERATING.get(task, {})))
    return answers


def tasks_of(config):
    """The stock pipelines of a family, and its own."""
    stock = {
        "text_jepa": ["fill-mask", "feature-extraction"],
        "staged_generator": ["text-generation", "feature-extraction"],
        "dialogue_jepa": ["feature-extraction"],
    }
    return [*stock.get(config.model_type, []), *config.to_dict().get("custom_pipelines", {})]


def inputs_of(config):
    """Fixed inputs of a family."""
    import torch

    generator = torch.Generator().manual_seed(0)
    if config.model_type == "video_jepa":
        return {"frames": torch.rand((2, 4, 1, config.frame_size, config.frame_size), generator=generator)}
    ids = torch.randint(5, config.vocab_size, (2, 8), generator=generator)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return inputs | ({"decoder_input_ids": ids[:, :4]} if config.model_type == "dialogue_jepa" else {})


def as_tensor(said):
    """What a pipeline gave, as one tensor: numbers as they are, words by their letters."""
    import torch

    if isinstance(said, list | tuple) and said and isinstance(said[0], list | float):
        return torch.tensor(said)
    if isinstance(said, str | list | dict):
        return torch.tensor([ord(letter) for letter in json.dumps(said, default=str)])
    return torch.as_tensor(said).contiguous()


def run_snippets(card):
    """What the Python blocks of a card print."""
    printed = io.StringIO()
    for code in re.findall(r"```python\n(.*?)```", card, re.DOTALL):
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "<card>", "exec"), {"__name__": "card"})
    return printed.getvalue()


def main(asked, target):
    """Open all of them."""
    sys.modules.update(dict.fromkeys(["configuration_jepa", "modeling_jepa", "training", "eval", "tests"]))
    import torch
    from huggingface_hub import ModelCard
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    with open(asked, encoding="utf-8") as file:
        revisions = json.load(file)
    tensors, printed = {}, {}
    for place, wanted in revisions.items():
        for revision in wanted:
            for name, answer in answers_of(place, revision, trust=True).items():
                tensors[f"{place} {revision} {name}"] = answer.clone()
        printed[place] = run_snippets(ModelCard.load(place).text)
    save_file(tensors, target)
    print(json.dumps(printed))


if __name__ == "__main__":
    main(*sys.argv[1:])
