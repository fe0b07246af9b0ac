"""Runs in a process that cannot import the packages: opens checkpoints by the pipelines that they bring along.

    python -I pipelines_without_packages.py FOLDER ANSWERS.safetensors

FOLDER holds `dialogue` and `video`; each is asked, saved again as a pipeline, opened again and asked again.
"""

import json
import sys

OWN_PACKAGES = ("configuration_jepa", "modeling_jepa", "training", "eval", "tests")


def main(folder: str, answers: str) -> None:
    sys.modules.update(dict.fromkeys(OWN_PACKAGES))  # None there makes an import fail as if it were not installed
    import torch
    from safetensors.torch import save_file
    from transformers import pipeline

    clip = torch.linspace(0, 1, 4 * 16 * 16).view(4, 16, 16)
    said, frames = {}, {}
    for name in ("first", "again"):
        reply = pipeline(model=f"{folder}/dialogue", trust_remote_code=True, device="cpu")
        said[name] = reply(["how are you ?", ["how are you ?", "fine", "where ?"]], do_sample=False)
        predict = pipeline(model=f"{folder}/video", trust_remote_code=True, device="cpu")
        frames[name] = predict(clip, mode="sample", seed=5)
        tasks = [reply.task, predict.task]
        modules = [type(one).__module__.partition(".")[0] for one in (reply, predict, reply.model, predict.model)]
        for part, kind in ((reply, "dialogue"), (predict, "video")):
            part.save_pretrained(f"{folder}/again/{kind}")
        folder = f"{folder}/again" if name == "first" else folder
    save_file(frames, answers)
    print(json.dumps({"said": said, "tasks": tasks, "modules": modules}))


if __name__ == "__main__":
    main(*sys.argv[1:])
