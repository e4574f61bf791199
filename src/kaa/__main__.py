"""``python -m kaa`` is the ``kaa`` command."""

from kaa.cli.main import main

main()
