"""leangan run: use a model on image files and folders."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from leangan.cli import options
from leangan.cli.output import answer
from leangan.cli.progress import progress
from leangan.errors import UsageError

EPILOG = """\b
Examples:
  leangan run out photos -o vintage
  leangan run out holiday.jpg -o holiday-vintage.png
  leangan run zoo:realesrgan-x4plus-anime small.png -o large.png --tile 256
  leangan run out -o faces --count 16 --seed 7"""

_PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


def command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            show_default=False,
            help="A folder that compress left, a deployable file in it, or any other MODEL.",
        ),
    ],
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILES", show_default=False, help="Pictures or folders of pictures."
        ),
    ] = None,
    *,
    out: Annotated[
        Path,
        typer.Option(
            "-o", "--out", metavar="OUT", show_default=False, help="A folder, or one .png file."
        ),
    ],
    tile: Annotated[
        int | None,
        typer.Option(
            "--tile", min=32, show_default="large pictures only", help="Side of a tile, in pixels."
        ),
    ] = None,
    count: Annotated[
        int,
        typer.Option("--count", min=1, help="Pictures to make, from models that need no input."),
    ] = 1,
    seed: options.Seed = 0,
    threads: options.Threads = None,
    range_: options.Ranges = None,
    kind: options.Kinds = None,
    trust: options.Trust = False,
    json_: options.Json = False,
) -> None:
    """Use a model on pictures of any size and mode.

    A model that starts from noise needs no files and makes --count pictures.
    """
    loading = options.Loading.read(ranges=range_, kinds=kind, trust=trust)
    for file in files or ():
        if not file.exists():
            raise UsageError(f"There is no file {file}.")
    single = out.suffix.lower() in _PICTURES
    if single and out.suffix.lower() != ".png":
        raise UsageError(f"Pictures are written as .png, without loss; not as {out.name!r}.")
    options.check_folder(out.parent if single else out)
    with answer(json_) as say:
        from leangan.cli.artifacts import open_for_running

        opened = open_for_running(model, loading, threads)
        from_noise = all(p.kind in ("latent", "noise") for p in opened.generator.signature.inputs)
        if from_noise and files:
            raise UsageError(f"{model} takes noise, no files; say how many with --count.")
        if not from_noise and not files:
            raise UsageError(f"Name pictures or folders for {model} to work on.")
        if single and (count > 1 or len(files or ()) > 1 or any(f.is_dir() for f in files or ())):
            raise UsageError(f"Several pictures do not go into the one file {out}; name a folder.")
        folder = Path(tempfile.mkdtemp(dir=_parent(out), prefix=".leangan-")) if single else out
        try:
            made = (
                _from_noise(opened, folder, count, seed)
                if from_noise
                else _from_files(opened, files or [], folder, tile)
            )
            if single:
                (folder / Path(made[0]["path"]).name).replace(out)
                made[0]["path"] = str(out)
        finally:
            if single:
                import shutil

                shutil.rmtree(folder, ignore_errors=True)
        notes = [note for picture in made for note in picture["notes"]]
        say({"written": made}, *(p["path"] for p in made), *notes)


def _parent(out: Path) -> Path:
    out.parent.mkdir(parents=True, exist_ok=True)
    return out.parent


def _from_files(
    opened: Any, files: list[Path], folder: Path, tile: int | None
) -> list[dict[str, Any]]:
    from leangan.graph.receptive import receptive_field
    from leangan.tasks.run import run_images

    with progress() as report:
        report("Running")
        written = run_images(
            opened.run,
            opened.generator.signature,
            files,
            folder,
            tile=tile,
            halo=receptive_field(opened.generator),
            progress=lambda done, total: report("Running", done, total),
        )
    return [{"source": str(w.source), "path": str(w.path), "notes": list(w.notes)} for w in written]


def _from_noise(opened: Any, folder: Path, count: int, seed: int) -> list[dict[str, Any]]:
    """Draw inputs one at a time, each from a seed of its own: picture 3 is always the same."""
    from leangan.tasks.images import from_port, write_image

    port = opened.generator.signature.outputs[0]
    made = []
    for index in range(count):
        # At the generator's usual batch where that is fixed; the first of it is kept.
        inputs = opened.generator.example({"N": 1}, seed=seed + index)
        picture = from_port(opened.run(*inputs), port)[0]
        path = write_image(folder / f"{index + seed:04d}.png", picture)
        made.append({"source": f"seed {seed + index}", "path": str(path), "notes": []})
    return made
