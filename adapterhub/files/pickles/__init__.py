"""Torch's files, read and written without torch and without running anything: zip and legacy containers, and their pickles.

From the outside in: `zip_container` (over `zip_directory` and `zip_members`) and `legacy_container` read the two containers,
`machine` interprets a pickle's `opcodes` over the inert `values` of its `state`, `known` is the closed list of globals and
`meanings` what becomes of them, `tensors` and `numpy_values` give lazy tensors over the stored bytes, and `tree` names those
as a File. The other way `emitting` makes the pickle of a tree, and `zip_writing` the archive.
"""
