"""Parts for sidetune, reached by name through the entry points of this package."""
