"""What can be done with whole models, streamed from and to disk."""
