"""Replies: found in an index, and said."""
