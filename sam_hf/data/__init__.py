"""Data: the synthetic scene generator, crops for the text branch, and readers of data sets."""
