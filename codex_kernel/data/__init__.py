"""From documents to batches: split, encode, pack, keep on disk, read back in a reproducible order.

One rule: every step is a pure function of the documents, the options and the seed; importing the package loads
neither numpy nor a tokenizer.
"""
