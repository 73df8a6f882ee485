"""Layouts of embeddings (textual inversion), each declared in a small file; `layout` reads and writes by what is declared,
`encoders` knows the text encoders, `dictionary` what the pickles of the paper's trainer and of A1111 hold.

An embedding's keys are `Key(component, token, Role.VECTORS)`: (n, width) input token embeddings of one text encoder, in the
order in which they stand for the token. OneTrainer's output embeddings, added behind the encoder, are OUTPUT_VECTORS.
"""
