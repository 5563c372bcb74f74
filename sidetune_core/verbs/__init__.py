"""The verbs of `sidetune`. Torch is imported only where something is computed."""

from tyro.extras import SubcommandApp

from sidetune_core.verbs import collect as collects
from sidetune_core.verbs import ledger, parts, runs
from sidetune_core.verbs import sweep as sweeps

app = SubcommandApp()
app.command(name="list")(parts.list_plugins)
app.command(parts.describe)
app.command(parts.check)
app.command(name="new")(parts.new_package)
app.command(sweeps.sweep)
app.command(collects.collect)
app.command(runs.report)
app.command(runs.export)
app.command(name="verify")(runs.verify_run)
app.command(ledger.reproduce)
app.command(name="ledger")(ledger.show_ledger)
