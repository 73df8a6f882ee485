"""What a person has: an index of adapters and models, and where they live."""
