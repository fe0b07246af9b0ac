"""Models in ONNX say what they say in torch, for any batch and length."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from tests.families import DIALOGUE_JEPA, ROUTED_GENERATOR, TEXT_JEPA, Family
from tests.modeling_jepa.test_video_jepa import clips, video
from tests.modeling_jepa.tiny_generators import open_gates

pytestmark = pytest.mark.slow  # half a minute of tracing for each
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


# Of each family what is hardest to trace.
CHANGES = {
    TEXT_JEPA.name: {"target_table": "ema"},
    ROUTED_GENERATOR.name: {"routing_edges": ["successors", "pairs"]},
    DIALOGUE_JEPA.name: {},
}


@pytest.mark.parametrize("family", [ROUTED_GENERATOR, TEXT_JEPA, DIALOGUE_JEPA], ids=lambda family: family.name)
def test_a_model_in_onnx_says_the_same_for_any_batch_and_length(family: Family, tmp_path: Path) -> None:
    model = family.model(num_hidden_layers=1, **CHANGES[family.name])
    open_gates(model)
    model.config.use_cache = False
    inputs = family.inputs(model.config)
    inputs["attention_mask"][0, :2] = 0
    run = exported(model, inputs, tmp_path)
    for given in (inputs, family.inputs(model.config, rows=3, length=8)):
        kept = given[family.answered].bool()
        torch.testing.assert_close(run(given)[kept], model(**given).logits[kept], atol=1e-5, rtol=0)


def test_a_video_model_in_onnx_says_the_same_for_any_batch_and_length_of_frames(tmp_path: Path) -> None:
    model = video(num_hidden_layers=1)
    run = exported(model, {"frames": clips(model.config)}, tmp_path)
    others = clips(model.config, count=2, length=4, seed=1)
    torch.testing.assert_close(run({"frames": others}), model(others).logits, atol=1e-5, rtol=0)


def exported(
    model: PreTrainedModel, inputs: dict[str, torch.Tensor], folder: Path
) -> Callable[[dict[str, torch.Tensor]], torch.Tensor]:
    """Logits by onnxruntime."""
    sizes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    shapes, path = dict.fromkeys(inputs, sizes), folder / "model.onnx"
    torch.onnx.export(model, kwargs=inputs, f=path, dynamo=True, dynamic_shapes=shapes, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(given: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.tensor(session.run(None, {one.name: given[one.name].numpy() for one in session.get_inputs()})[0])

    return run
