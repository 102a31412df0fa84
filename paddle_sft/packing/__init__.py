"""Which samples share a row. Knows lengths only, so it can neither lose a token nor mix up a label.

lengths -> packers (or stream, for lazy data) -> rows of sample numbers -> certificate: how close to the best they are.
"""
