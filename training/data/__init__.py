"""Data: from a file, a Hub data set or a built-in text to masked batches.

sources.py       rows checked, rejects counted and named, each row gets a row_id
tokenization.py  a vocabulary from the training part; rows as token ids
prepared.py      both, cached by content
sampling.py      which row comes when: a function of (seed, pass)
collators.py     pads and stacks; no randomness
masking.py       holes, replacements and negatives: a function of (seed, pass, row_id, position)
cache.py         what was made once, kept by content
streaming.py     instead of prepared.py: a corpus read as training goes on, from a cursor on

A causal language model takes documents instead of rows:

documents.py         rows joined to documents, verbatim
framing.py           a tokenizer, and documents as token ids between begin and end
packing.py           end to end in blocks of one length, with the positions that keep documents apart
blocks.py            all three, cached by content
generator_stream.py  blocks of a corpus read as training goes on
causal_labels.py     what is predicted in a batch of blocks

A video model takes clips:

digits.py            pictures of digits, from files, the Hub or a package
clips.py             clips of moving digits: functions of (split, seed, index), rendered when they are read
quantiser.py         pictures for the codes of small squares, learned
frame_tokenizer.py   frames as codes: made once, measured, cached by content
prepared_clips.py    all of it for a run
video_masks.py       which codes are hidden: a function of (seed, pass, row_id, position)

families.py      what each model family takes of these
"""
