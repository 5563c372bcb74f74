"""Ways to fuse the encodings of base and side."""
