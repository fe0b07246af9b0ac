"""Findings, and how a report is shown."""
