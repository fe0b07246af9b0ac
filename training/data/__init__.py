"""Data: from a file, a Hub data set or a built-in text to masked batches.

settings.py      what the sections `data` and `masking` of a recipe may hold, each key with its help and its range
sources/         from the name of a source to checked rows: locate.py finds it, readers.py has a reader for each kind
                 of file (another kind is another entry of its table), rows.py counts and names rejects
tokenization.py  a vocabulary from the training part; rows as token ids
prepared.py      both, cached by content (cache.py): a `Preparation`, of which each family has its own
sampling.py      which row comes when: a function of (seed, pass)
collators.py     pads and stacks; no randomness
streaming.py     instead of prepared.py: a corpus read as training goes on, from a cursor on
families.py      what each model family takes of these, and of its own folder

text_jepa/         rows.py: phrases; masking.py: holes, replacements and negatives
staged_generator/  documents.py: rows joined to documents, verbatim; framing.py: as token ids between begin and end;
                   packing.py: in blocks of one length; blocks.py: all three; stream.py: of a streamed corpus
dialogue_jepa/     dialogues.py: turns; framing.py: contexts and replies as token ids; pairs.py: both
video_jepa/        digits.py: pictures; clips.py: clips of them, rendered when they are read; quantiser.py and
                   frame_tokenizer.py: frames as codes; prepared.py: all of it; masking.py: which codes are hidden
"""
