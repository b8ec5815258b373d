"""``python -m edgeqkv`` is ``edgeqkv``."""

from edgeqkv.cli.app import main

main()
