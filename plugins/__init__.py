"""The components of sidetune, installed as ``sidetune_plugins`` and reached through the registry only."""

if __name__ == "plugins":
    # From the root of a checkout this folder would be imported a second time, with different classes.
    raise ImportError("import nothing from 'plugins': components are reached by name, through sidetune_core")
