"""The registry: an index of a person's adapters and models, and what is said about them."""
