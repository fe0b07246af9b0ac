"""Documents packed into blocks, or streamed."""
