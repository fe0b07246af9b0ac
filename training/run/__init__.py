"""One run: what the command line and the recipe say, and what it has reached."""
