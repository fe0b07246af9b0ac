"""Model cards, made from measured JSON: `python -m training.cards`."""
