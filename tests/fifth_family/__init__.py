"""A fifth family, as small as one can be: a bigram model, which predicts a token from the one before it alone.

One file of its name for each room, and `join`: one row in each table. Nothing else knows it.
"""

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from configuration_jepa import remote_code
from eval.scorers.checkpoint import SCORERS, Scorer
from tests.fifth_family.configuration_bigram import BigramConfig
from tests.fifth_family.data_bigram import BigramData
from tests.fifth_family.family_bigram import Bigram
from tests.fifth_family.modeling_bigram import BigramForCausalLM
from tests.fifth_family.scorer_bigram import bigram_table, score_request
from tests.fifth_family.settings_bigram import BigramEvaluationSettings
from training.data.families import FAMILIES
from training.data.settings import NoMaskingSettings
from training.families import LOADERS
from training.settings.recipes import RECIPES, FamilyRecipe

NAME = BigramConfig.model_type


def join(patch: pytest.MonkeyPatch) -> None:
    """Put the family among the others until the patch is undone."""
    # The two files that travel with a checkpoint stand in this package, and those of the others in two of their own.
    patch.setattr(remote_code, "PACKAGES", (*remote_code.PACKAGES, __name__))
    AutoConfig.register(NAME, BigramConfig, exist_ok=True)
    AutoModelForCausalLM.register(BigramConfig, BigramForCausalLM, exist_ok=True)
    recipe = FamilyRecipe(BigramConfig, masking=NoMaskingSettings, evaluation=BigramEvaluationSettings)
    patch.setitem(RECIPES, NAME, recipe)
    patch.setitem(FAMILIES, NAME, BigramData())
    patch.setitem(SCORERS, NAME, Scorer("bigram", score_request, bigram_table))
    patch.setitem(LOADERS, NAME, Bigram)
