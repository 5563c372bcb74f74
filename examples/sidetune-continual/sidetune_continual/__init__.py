"""Continual learners: gradient projection, path integrals, masks, and class-incremental prediction."""
