"""A trainable copy of what the base computes after one of its taps."""
