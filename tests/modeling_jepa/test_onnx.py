"""Models in ONNX say what they say in torch, for any batch and length."""

from pathlib import Path

import pytest
import torch

from tests.families import ROUTED_GENERATOR, TEXT_JEPA, Family

pytestmark = pytest.mark.slow  # half a minute of tracing for each
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.mark.parametrize("family", [ROUTED_GENERATOR, TEXT_JEPA], ids=lambda family: family.name)
def test_a_model_in_onnx_says_the_same_for_any_batch_and_length(family: Family, tmp_path: Path) -> None:
    changes = {"target_table": "ema"} if family is TEXT_JEPA else {"routing_edges": ["successors", "pairs"]}
    model = family.model(num_hidden_layers=1, **changes).eval()
    model.config.use_cache = False
    inputs = family.inputs(model.config)
    inputs["attention_mask"][0, :2] = 0
    sizes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    path = tmp_path / "model.onnx"
    torch.onnx.export(
        model, kwargs=inputs, f=path, dynamo=True, dynamic_shapes=dict.fromkeys(inputs, sizes), verbose=False
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for given in (inputs, family.inputs(model.config, rows=3, length=8)):
        said = session.run(None, {one.name: given[one.name].numpy() for one in session.get_inputs()})[0]
        kept = given[family.answered].bool()
        torch.testing.assert_close(torch.tensor(said)[kept], model(**given).logits[kept], atol=1e-5, rtol=0)
