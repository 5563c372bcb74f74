"""Supervised tasks: sources of labelled examples, objectives, and the task that joins the two."""
