"""Embeddings inside pictures, as AUTOMATIC1111's webui keeps them: in a text chunk of a PNG, and in strips at its sides.

`reading` finds the payload, `png` and `webp` take the containers apart, `strips` hides it in pixels and finds it there,
and `payload` turns JSON into a tree of tensors and back. `writing` puts one into a `cover`, or onto a `card`.
"""
