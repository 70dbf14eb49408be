"""Data sets: validated, immutable sets of labelled texts."""
