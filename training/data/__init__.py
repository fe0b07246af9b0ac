"""Data: from a file, a Hub data set or a built-in text to masked batches.

sources.py       rows checked, rejects counted and named, each row gets a row_id
tokenization.py  a vocabulary from the training part; rows as token ids
prepared.py      both, cached by content
sampling.py      which row comes when: a function of (seed, pass)
collators.py     pads and stacks; no randomness
masking.py       holes, replacements and negatives: a function of (seed, pass, row_id, position)
families.py      what each model family takes of these
"""
