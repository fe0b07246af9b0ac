"""How a prompt is continued: greedy, sampled or with beams."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from training.common.errors import InputError

TOP_K, TEMPERATURE = 50, 0.7


MAX_NEW_TOKENS = 60


@dataclass(frozen=True)
class Decoding:
    """How a prompt is continued. `validate()` raises InputError.

    Attributes:
        top_k: sampling: only the k likeliest tokens; 0 for all.
        temperature: sampling: divides the scores; below 1 sharper, above 1 flatter.
        top_p: sampling: only the likeliest tokens that together have this chance (Holtzman et al., 2020).
        num_beams: instead of greedy, the best of so many beams; 1 is greedy.
        repetition_penalty: divides the scores of tokens that were said (Keskar et al., 2019); 1 is none.
        max_new_tokens: at most; fewer where the end is said before, or the model's length is reached.
        num_samples: of the sampled kind; 0 for none.
        seed: of the sampling.
    """

    top_k: int = TOP_K
    temperature: float = TEMPERATURE
    top_p: float = 1.0
    num_beams: int = 1
    repetition_penalty: float = 1.0
    max_new_tokens: int = MAX_NEW_TOKENS
    num_samples: int = 1
    seed: int = 0

    def validate(self) -> None:
        """Raise InputError for the first value that makes no sense."""
        for name, low in (("top_k", 0), ("num_beams", 1), ("max_new_tokens", 1), ("num_samples", 0)):
            if getattr(self, name) < low:
                off = " (0 leaves it out)" if name == "top_k" else ""
                raise InputError(f"{name} must be {low} or more{off}, was given {getattr(self, name)}")
        if not self.temperature > 0:
            raise InputError(
                f"temperature must be above 0, was given {self.temperature}; for no sampling ask for greedy"
            )
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p must lie above 0 and at most at 1 (which leaves it out), was given {self.top_p}")
        if not self.repetition_penalty > 0:
            raise InputError(f"repetition_penalty must be above 0 (1 is none), was given {self.repetition_penalty}")

    def arguments(self, do_sample: bool) -> dict[str, Any]:
        """Of a `GenerationConfig`: all that the checkpoint's own would fill in; what it never says, as suppressed
        tokens, stays.
        """
        chosen = {"top_k": self.top_k, "temperature": self.temperature, "top_p": self.top_p, "num_beams": 1}
        likeliest = {"top_k": TOP_K, "temperature": 1.0, "top_p": 1.0, "num_beams": self.num_beams}
        penalty = {"repetition_penalty": self.repetition_penalty}
        return {"do_sample": do_sample, **(chosen if do_sample else likeliest), **penalty}

    @property
    def sampled_name(self) -> str:
        """What is written over sampled text."""
        parts = [f"top-k {self.top_k}"] if self.top_k else []
        parts += [f"top-p {self.top_p:g}"] if self.top_p < 1 else []
        return f"{', '.join(parts) or 'sampled'}, temperature {self.temperature:g}"

    @property
    def likeliest_name(self) -> str:
        """What is written over text that no chance decides."""
        return "greedy" if self.num_beams == 1 else f"{self.num_beams} beams"


def decoding_of(asked: Mapping[str, Any], own: Any, **given: Any) -> Decoding:
    """What was asked for; else what travels with the checkpoint; else our defaults.

    Args:
        asked: name of a setting of sampling -> value, None where nothing was asked.
        own: the checkpoint's `GenerationConfig`.
        **given: the other settings.
    """
    for name in ("top_k", "temperature", "top_p", "repetition_penalty"):
        value = getattr(own, name) if asked[name] is None else asked[name]
        if value is not None:
            given[name] = value
    return Decoding(**given)
