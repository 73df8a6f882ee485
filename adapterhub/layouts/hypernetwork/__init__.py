"""Layouts of hypernetworks, each declared in a small file; `structure` says what a net is made of and in which order, `layout`
reads and writes by what is declared, `dictionary` knows the pickles that A1111 and its forerunners wrote.

A hypernetwork's keys are `Key("unet", "WIDTH.NET.PART.NUMBER", role)`: NET "k" or "v"; PART "linear", "norm", "activation"
(PReLU's slope) or "upsample", numbered from 0 each; roles LAYER_WEIGHT and LAYER_BIAS. What no tensor tells (activation,
dropout …) is a `HypernetworkStructure`, kept as JSON in the metadata field STRUCTURE.
"""
