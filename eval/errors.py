"""Errors of measuring that are not bad input (that is `training.data.errors.InputError`)."""


class NonFiniteError(RuntimeError):
    """A model produced NaN or plus infinity where a score was needed. Command lines end with exit code 3."""
