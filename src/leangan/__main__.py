"""`python -m leangan`, which torchrun needs: the same as the command."""

from __future__ import annotations

import sys

from leangan.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
