"""A page to try models on: `python -m eval.demo`."""

from eval.demo.make import make_page

__all__ = ["make_page"]
