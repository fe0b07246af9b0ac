"""The field's own models, trained as ours are."""
