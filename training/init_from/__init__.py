"""Starting from something trained: a stage, an adapter, a pretrained decoder."""
