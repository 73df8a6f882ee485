"""Fit: into which modules of a model an adapter goes, and what each reader makes of its file.

`facts` is what a file is by its header, `readers.toml` what each reader does with such files, `verdicts` the one held against
the other; `model` holds the modules against a checkpoint.
"""
