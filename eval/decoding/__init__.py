"""Scoring tokens in windows, and how text is sampled."""
