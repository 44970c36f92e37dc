"""The `leangan` command: global options, exit codes, and errors as one sentence."""

from __future__ import annotations

import errno
import logging
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from leangan import __version__
from leangan.cli import (
    bench,
    compress,
    distill,
    doctor,
    evaluate,
    export,
    finetune,
    inspect,
    prune,
    quantize,
    run,
    train,
    zoo,
)
from leangan.cli.settings import SETTINGS
from leangan.errors import LeanganError

_EPILOG = """\b
Start with one of these:
  leangan inspect zoo:cyclegan-vintage
  leangan compress zoo:cyclegan-vintage --data photos -o out
  leangan run out holiday.jpg -o holiday-vintage.png

Exit codes: 0 done, 1 failure, 2 wrong use, 3 the quality asked for was not reached, 4 an
optional package is missing."""

app = typer.Typer(
    name="leangan",
    help="Make a trained GAN generator small and fast on this machine, with measured proof that "
    "its output is still good.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
_MAKE = (inspect, compress, prune, quantize, finetune, distill, train)
_USE = (evaluate, run, bench, export, doctor)
for _module in (*_MAKE, *_USE):
    app.command(_module.__name__.rpartition(".")[2], epilog=_module.EPILOG)(_module.command)
app.add_typer(zoo.app, name="zoo")

_INTERRUPTED = 130
_Exceptions = typer.BadParameter.__mro__
_ClickError: type[Any] = _Exceptions[_Exceptions.index(Exception) - 1]
"""The base of Typer's usage errors, which Typer does not export."""


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"leangan {__version__}\n")
        raise typer.Exit


@app.callback()
def _global(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
    verbose: Annotated[
        int, typer.Option("-v", "--verbose", count=True, show_default=False, help="Tell more.")
    ] = 0,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    SETTINGS.verbosity = -1 if quiet else verbose
    SETTINGS.debug = debug


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; those of this process when None.

    Returns:
        The exit code: 0 done, 1 failure, 2 wrong use, 3 quality not reached, 4 backend missing,
        130 interrupted.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    SETTINGS.verbosity, SETTINGS.debug = 0, "--debug" in given
    SETTINGS.command = shlex.join(["leangan", *given])
    try:
        with _third_parties_silenced():
            result = app(_global_first(given), prog_name="leangan", standalone_mode=False)
        sys.stdout.flush()
        if result == _INTERRUPTED:  # what Typer makes of Ctrl-C
            raise KeyboardInterrupt
        return result if isinstance(result, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return _fail("Interrupted; nothing was left half-written.", _INTERRUPTED, prefix="")
    except LeanganError as error:
        return _fail(str(error), error.exit_code)
    except _ClickError as error:
        return _usage(error)
    except BrokenPipeError:
        # The reader (head, less) has gone: no error of ours, but nothing may be flushed any more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except Exception as error:
        return _fail(_words(error), 1)


@contextmanager
def _third_parties_silenced() -> Iterator[None]:
    """Keep warnings and logs that are meant for programmers off the screen, but for --debug."""
    if SETTINGS.debug:
        yield
        return
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _global_first(arguments: list[str]) -> list[str]:
    """Let the global switches stand behind the command's name too."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    switches = {"--debug", "-v", "-vv", "--verbose", "-q", "--quiet"}
    front = [a for a in arguments[:end] if a in switches]
    return front + [a for a in arguments[:end] if a not in switches] + arguments[end:]


def _usage(error: Any) -> int:
    message = error.format_message().strip()
    if message.startswith("Usage:"):  # no arguments at all: the help is the answer
        sys.stderr.write(message + "\n")
        return int(error.exit_code)
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "leangan"
    hint = f"{'' if message.endswith('.') else '.'} See `{path} --help`."
    return _fail(message + hint, int(error.exit_code))


def _words(error: Exception) -> str:
    """One sentence for what no room foresaw."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return (
            "No room left on the disk; nothing was left half-written. "
            "Free some space or choose another folder with -o."
        )
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}."
    if isinstance(error, MemoryError):
        return "Not enough memory; try smaller inputs or a smaller --limit."
    first = next(iter(str(error).strip().splitlines()), "")
    return (
        f"{type(error).__name__}: {first.rstrip('.')}. leangan did not expect this; please report "
        "it with what `leangan --debug` prints for the same command."
    )


def _fail(message: str, code: int, *, prefix: str = "Error: ") -> int:
    if SETTINGS.debug and sys.exc_info()[0] is not None:
        traceback.print_exc()
    sys.stderr.write(f"{prefix}{' '.join(message.split())}\n")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
