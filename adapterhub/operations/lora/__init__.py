"""What can be done with the LoRA family, module by module."""
