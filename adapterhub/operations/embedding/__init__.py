"""What can be done with embeddings, and with those that travel in LoRA files."""
