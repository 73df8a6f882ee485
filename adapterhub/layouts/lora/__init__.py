"""Layouts of the LoRA family. `keyed` is the table engine and `spelled` splits keys; the layouts are one small file each."""
