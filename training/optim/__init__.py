"""Optimizers, schedules and credit assignment."""
