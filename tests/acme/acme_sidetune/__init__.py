"""Components for sidetune, registered by the entry points of this package."""
