"""Names of what a run puts into its folder beside checkpoints and the files of its model."""

from eval.loading import MANIFEST, RUN_FILE

LOG_FILE = "log.jsonl"
CARD_FILE = "README.md"
SCORE_FILE = "results/score.json"
MILESTONES_FILE = "results/milestones.json"
CURVES_FILE = "plots/loss.png"

OWN_FILES = (MANIFEST, RUN_FILE, LOG_FILE, CARD_FILE, SCORE_FILE, MILESTONES_FILE, CURVES_FILE)
