"""Where adapters and models live: found by the names of files and folders; nothing is opened but the settings of applications.

from adapterhub.registry.places import recognised, walk

recognised(Path.home() / "ComfyUI").places      # its folders of LoRAs, embeddings, hypernetworks and checkpoints
for thing in walk([Path.home() / "ComfyUI"]):   # a Found for each file, or folder that is one thing; a Trouble for the rest
    ...
"""

from adapterhub.registry.places.applications import recognised
from adapterhub.registry.places.found import Application, Entry, Found, OnDisk, Place, Settings, Trouble, on_disk
from adapterhub.registry.places.walking import walk
from adapterhub.registry.places.watching import watch

__all__ = [
    "Application",
    "Entry",
    "Found",
    "OnDisk",
    "Place",
    "Settings",
    "Trouble",
    "on_disk",
    "recognised",
    "walk",
    "watch",
]
