"""Pairs of context and reply."""
