"""Torch's files, read without torch and without running anything: zip and legacy containers, and the pickles in them.

From the outside in: `zip_container` (over `zip_directory` and `zip_members`) and `legacy_container` read the two containers,
`machine` interprets a pickle's `opcodes` over the inert `values` of its `state`, `known` is the closed list of globals and
`meanings` what becomes of them, `tensors` and `numpy_values` give lazy tensors over the stored bytes, and `tree` names those
as a File.
"""
