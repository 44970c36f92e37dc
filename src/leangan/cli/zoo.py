"""leangan zoo: real trained generators to try things on."""

from __future__ import annotations

from typing import Annotated

import typer

from leangan.cli import options
from leangan.cli.output import answer
from leangan.cli.progress import progress

_EPILOG = """\b
Examples:
  leangan zoo
  leangan zoo fetch cyclegan-vintage
  leangan compress zoo:cyclegan-vintage --data photos -o out"""

app = typer.Typer(
    help="List real trained generators, with licence, size and origin; zoo:NAME is a MODEL.",
    epilog=_EPILOG,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
