"""Runs in a process that cannot import the packages: opens a checkpoint by its own code, writes what came out.

    python -I open_without_packages.py CHECKPOINT ANSWERS.safetensors SAVED_AGAIN TASK...

ANSWERS holds the inputs, one tensor per name; to them the answers of every Auto class and of the stock pipelines of
every TASK are added, and the checkpoint is saved again from what was opened.
"""

import importlib.abc
import json
import sys


class Forbidden(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname.partition(".")[0] in ("configuration_jepa", "modeling_jepa", "training", "eval", "tests"):
            raise ModuleNotFoundError(f"No module named {fullname!r} (forbidden here)", name=fullname)


def answer_of(stock: "transformers.Pipeline") -> "torch.Tensor":  # noqa: F821 # imported where nothing is forbidden
    """What a stock pipeline says of a fixed text, as numbers."""
    import torch

    if stock.task == "fill-mask":
        return torch.tensor([guess["token"] for guess in stock("w1 [MASK] w3")])
    if stock.task == "text-generation":
        return torch.tensor(stock("w1 w2 w3", do_sample=False, return_tensors=True)[0]["generated_token_ids"])
    return torch.tensor(stock("w1 w2 w3"))


def main(checkpoint: str, answers: str, saved_again: str, *tasks: str) -> None:
    sys.meta_path.insert(0, Forbidden())
    import torch
    import transformers
    from safetensors.torch import load_file, save_file

    tensors = load_file(answers)
    inputs = {name.removeprefix("input."): tensor for name, tensor in tensors.items() if name.startswith("input.")}
    config = transformers.AutoConfig.from_pretrained(checkpoint, trust_remote_code=True)
    modules = {"AutoConfig": type(config).__module__}
    for auto_class in config.auto_map:
        if auto_class == "AutoConfig":
            continue
        torch.manual_seed(0)  # of a classifier's new layer
        model, info = getattr(transformers, auto_class).from_pretrained(
            checkpoint, trust_remote_code=True, output_loading_info=True
        )
        if "Classification" in auto_class:
            assert info.pop("missing_keys") == {"classifier.weight", "classifier.bias"}
        assert not any(info.values()), info
        modules[auto_class] = type(model).__module__
        with torch.no_grad():
            tensors[f"answer.{auto_class}"] = model.eval()(**inputs)[0].contiguous()
        if auto_class == "AutoModelForMaskedLM":  # its tokenizer is found without asking whether to trust it
            tensors["answer.encode"] = model.encode(["w1 w2 w3"]).contiguous()
    model.save_pretrained(saved_again)
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=True)
    tokenizer.save_pretrained(saved_again)
    for task in tasks:
        stock = transformers.pipeline(task, model=checkpoint, trust_remote_code=True, device="cpu")
        tensors[f"answer.{task}"] = answer_of(stock)
    save_file(tensors, answers)
    print(json.dumps(modules))


if __name__ == "__main__":
    main(*sys.argv[1:])
