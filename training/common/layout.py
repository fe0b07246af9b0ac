"""Names of what a run puts into its folder beside checkpoints."""

from pathlib import Path

import configuration_jepa
import modeling_jepa
from training.common.manifest import MANIFEST, RUN_FILE

TEMPLATES = Path(__file__).resolve().parents[2] / "model_cards"
PICTURES = "plots"
TOKENIZER_FILE = "frame_tokenizer.safetensors"
INDEX_FOLDER = "index"
LATENTS, REPLIES = "latents.safetensors", "replies.jsonl"
LOG_FILE = "log.jsonl"
CARD_FILE = "README.md"
SCORE_FILE = "results/score.json"
CARD_RECORD_FILE = "results/card.json"
MILESTONES_FILE = "results/milestones.json"
CURVES_FILE = "plots/loss.png"
KEPT = ("keep_perplexity",)  # figures of the text that `evaluation.keep` names, beside the run's own
ADAPTER_FOLDER = "adapter"  # what `peft` reads, beside the merged weights
LORA_FILE = "lora.safetensors"  # in a checkpoint that is trained with adapters, beside its merged weights
TRANSCRIPT_FILE = "results/transcript.json"
CLIPS_FILE = "plots/clips.gif"
STILL_FILE = "plots/clips.png"
FRAMES_FILE = "plots/frames.png"
INDEX_FILES = tuple(f"{INDEX_FOLDER}/{name}" for name in (LATENTS, REPLIES, MANIFEST))

OWN_FILES = (
    *(MANIFEST, RUN_FILE, LOG_FILE, CARD_FILE, SCORE_FILE, MILESTONES_FILE, CURVES_FILE),
    *(CARD_RECORD_FILE, TRANSCRIPT_FILE, *INDEX_FILES, CLIPS_FILE, STILL_FILE, FRAMES_FILE),
)

# What the root of a run folder gets with its model: weights, tokenizer, and what sentence-transformers reads.
MODEL_FILES = (
    *("model.safetensors", "model.safetensors.index.json", "config.json", "tokenizer.json", "tokenizer_config.json"),
    *(
        "chat_template.jinja",
        "generation_config.json",
        "modules.json",
        "1_Pooling/config.json",
        "sentence_bert_config.json",
    ),
    TOKENIZER_FILE,
    *(f"{ADAPTER_FOLDER}/{name}" for name in ("adapter_config.json", "adapter_model.safetensors", "README.md")),
)
_CODE = [Path(package.__path__[0]) for package in (configuration_jepa, modeling_jepa)]


def code_files() -> list[str]:
    """Names of the code that goes with a model."""
    return [path.name for package in _CODE for path in package.glob("*.py") if path.name != "__init__.py"]
