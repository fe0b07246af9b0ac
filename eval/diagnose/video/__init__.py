"""The checks of a video model: the same groups and findings, looked at in clips instead of text."""
