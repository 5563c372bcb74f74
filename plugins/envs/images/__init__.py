"""Labelled images of your own, from files that are decoded when they are needed."""
