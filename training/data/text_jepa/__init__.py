"""Phrases: masking."""
