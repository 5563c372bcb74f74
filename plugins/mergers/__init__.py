"""Ways to merge the encodings of base and side."""
