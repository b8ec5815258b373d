"""``python -m edgeqkv`` is ``edgeqkv``."""

from edgeqkv.cli import main

main()
