"""Adapters into a whole model and out of it again, streamed: one weight at a time, every sum in float64, rounded once."""
