"""The one error of bad input."""


class InputError(ValueError):
    """What the user gave cannot be used.

    The message is one line: it names the argument or the file, what was given, what is allowed and what to do.
    The command lines print it as `error: ...` and end with exit code 2.
    """


class NonFiniteError(RuntimeError):
    """A model produced NaN or plus infinity where a score was needed. Command lines end with exit code 3."""
