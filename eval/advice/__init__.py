"""Advice from the log of a run: patterns, each with evidence and remedy."""
