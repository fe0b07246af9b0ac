"""The one Trainer of all families, its callbacks and its log."""
