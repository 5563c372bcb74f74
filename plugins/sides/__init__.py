"""Small networks that are trained next to the base."""
