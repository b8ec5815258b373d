"""What ``optimum-cli`` looks for in its namespace ``optimum.commands.register``: the commands that edgeqkv adds to it.

That namespace belongs to all of optimum's companions, so that there must be no ``__init__.py`` on the way here.
"""

from optimum.commands.export.base import ExportCommand

from edgeqkv.cli.optimum_command import EdgeQKVExportCommand

REGISTER_COMMANDS = [(EdgeQKVExportCommand, ExportCommand)]
