"""The parts that come with sidetune. Installed as ``sidetune_plugins`` and reached only through the registry."""

if __name__ == "plugins":
    # From the root of a checkout this folder would import a second time under its folder name, as different classes.
    raise ImportError("import nothing from 'plugins': its parts are reached by name, through sidetune_core")
