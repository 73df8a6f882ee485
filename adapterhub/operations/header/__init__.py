"""`metadata`: the text fields in the header of a safetensors file, edited (`edit`), cleaned of what is private (`cleaning`, by the
patterns of `private`) and held against ModelSpec's rules (`lint`); `thumbnail` is their picture.
"""
