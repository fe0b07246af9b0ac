"""The checks: a module per group, helpers carry its name as a prefix."""
