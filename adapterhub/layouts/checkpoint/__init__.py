"""Layouts of whole models: one LDM file, or a diffusers folder. Every weight has the key of what it is in `architectures`;
what no architecture has a name for is kept aside under its own name, and goes back to where it was.
"""
