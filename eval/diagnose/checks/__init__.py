"""The checks: a module per group, helpers carry its name as a prefix."""

# The groups: each is a module here, in the order in which they run: what others rest on first, the slowest
# last.
GROUPS = (
    "leak",
    "size",
    "gradient",
    "distribution",
    "repair",
    "collapse",
    "ranking",
    "parity",
    "data",
    "training",
    "sampling",
    "memorise",
)
