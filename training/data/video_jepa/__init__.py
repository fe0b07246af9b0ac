"""Clips: digits, frame tokens, masks."""
