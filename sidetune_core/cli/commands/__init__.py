"""The verbs of `sidetune`. Torch is imported only where something is computed."""

from tyro.extras import SubcommandApp

from sidetune_core.cli.commands import ledger, plugins, runs
from sidetune_core.cli.commands import record as collects
from sidetune_core.cli.commands import sweep as sweeps

app = SubcommandApp()
app.command(name="list")(plugins.list_plugins)
app.command(plugins.describe)
app.command(plugins.check)
app.command(name="new")(plugins.new_package)
app.command(sweeps.sweep)
app.command(collects.collect)
app.command(runs.report)
app.command(runs.export)
app.command(name="verify")(runs.verify_run)
app.command(ledger.reproduce)
app.command(name="ledger")(ledger.show_ledger)
