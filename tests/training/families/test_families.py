"""What a family's recipe, data and model say of each other agrees."""

import pytest

from training.data.families import FAMILIES
from training.families import load_family
from training.settings.recipes import family_names, recipe_of


@pytest.mark.parametrize("name", family_names())
def test_a_familys_parts_are_of_one_family(name: str) -> None:
    recipe, family = recipe_of(name), load_family(name)
    assert family.config_class is recipe.config_class
    assert family.name == name
    assert family.model_class.config_class is family.config_class
    assert family.data is FAMILIES[name]
    assert (family.data.data_settings, family.data.masking_settings) == (recipe.data, recipe.masking)


@pytest.mark.parametrize("name", family_names())
def test_the_default_best_metric_may_be_chosen_and_has_a_direction(name: str) -> None:
    settings = recipe_of(name).evaluation()
    assert settings.best_metric in settings.best_metrics
    assert set(settings.lower_is_better) <= set(settings.best_metrics)
    settings.validate()
