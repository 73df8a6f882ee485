"""Hypernetworks at work: in diffusers, scaled, and several as one.

    from adapterhub.hypernetworks import attach, merge, scale

    with attach(pipe, "style.pt", strength=0.8):
        pipe("a castle").images[0].save("castle.png")
    scale("style.pt", "weaker.pt", 0.8)
    merge(["style.pt", ("light.safetensors", 0.5)], "both.pt")

Imports torch; `adapterhub.convert` folds linear ones into LoRAs.
"""

from adapterhub.operations.hypernetwork.attaching import Attachment, attach
from adapterhub.operations.hypernetwork.tools import merge, scale

__all__ = ["Attachment", "attach", "merge", "scale"]
