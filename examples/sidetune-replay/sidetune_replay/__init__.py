"""Learners that keep some of the examples of earlier tasks and learn them again."""
