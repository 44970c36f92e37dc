"""`python -m leangan`, which torchrun needs: the same as the command."""

from __future__ import annotations

import sys

from leangan.cli.main import main

sys.exit(main())
