"""The model under examination, and what is fed to it."""
