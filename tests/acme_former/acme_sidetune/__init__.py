"""Parts for sidetune 0.1, under the names of that version."""
