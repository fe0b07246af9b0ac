"""Cells that train an arm of a recipe and score it on its way: one module per family."""
