"""What can be done with adapters: pure functions over lazy tensors. Here are the commands and what all kinds share; what
differs by kind is in `lora/`, `embedding/` and `hypernetwork/`, each with the `work` that `work.py` asks for.
"""
