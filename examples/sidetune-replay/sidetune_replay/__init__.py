"""Learners that store examples of earlier tasks and replay them."""
