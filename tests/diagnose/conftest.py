"""The tiny finished run of the tests of training, to be read as a run folder."""

from tests.training.conftest import finished_run, tiny_data, tiny_recipe, train_tiny  # noqa: F401 (fixtures)
