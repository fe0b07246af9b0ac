"""A cell of the video comparison: the second half of held-out clips is predicted, the error of each clip is kept."""

from typing import Any

from transformers import PreTrainedModel

from eval.benchmarks.exams.exam import Exam
from eval.scorers.request import Scores
from eval.scorers.video import score_clips
from training.families.video_held_out import future_figures


class VideoExam(Exam):
    """Adds `examples`: `mse` by expectation and `ssim` by argmax of each clip, see `statistics.difference`."""

    curve_figures = ("future_loss", "future_accuracy", "mse")

    def look(self, model: PreTrainedModel) -> dict[str, Any]:
        """Predicted codes and frames of valid."""
        prepared, rows = self.prepared, self.plan.eval_rows
        found = future_figures(model, prepared.tokenizer, prepared.valid, prepared.mean_picture, rows)
        return self._kept(found)

    def score(self, model: PreTrainedModel) -> Scores:
        """All figures of clips, on `split`."""
        clips = getattr(self.prepared, self.plan.split)
        return score_clips(model, clips, self.prepared.mean_picture, max_rows=self.plan.max_rows)

    def answers(self) -> dict[str, Any]:
        """See the class."""
        return {"examples": clip_examples(self.scores[self.plan.marks[-1]])}


def clip_examples(scores: Scores) -> dict[str, list]:
    """Per clip: `ids`, and the means over its predicted frames of `mse` and `ssim`, for pairing."""
    mse, ssim = scores.answers["expectation"].squared_error, scores.answers["argmax"].ssim
    return {"ids": list(range(len(mse))), "mse": mse.mean(1).tolist(), "ssim": ssim.mean(1).tolist()}


train_and_mark = VideoExam.train_and_mark
