"""What `leangan run` does: picture files in, picture files out, of any mode and size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from torch.nn import functional as F

from leangan.errors import LeanganError, UsageError
from leangan.generator import Port, Signature
from leangan.tasks.anysize import Run, run_any_size
from leangan.tasks.images import from_port, is_image, list_images, read_image, to_port, write_image
from leangan.tasks.pictures import scale
from leangan.tasks.tiles import out_of_memory, run_tiled

WHOLE = 2**20
"""Pixels, of the input or the output, up to which a picture is run whole: a layer of 64 channels
at that size takes 256 MiB, and a generator keeps several."""
TILE = 512
"""Pixels a side of a tile, counted at the larger of input and output."""
MOST_HALO = 128
"""Pixels of halo that are worth their time. The rim of a deep network's receptive field has next
to no influence: Real-ESRGAN's 23 blocks see some 350 pixels to each side, and with a halo of 128
its tiles differ from the whole by 1.4e-6 (4e-4 with 64, measured on a slide full of edges)."""


@dataclass(frozen=True)
class Written:
    """One picture that was made."""

    source: Path
    path: Path
    notes: tuple[str, ...]
    """What was converted or done differently on the way, each naming the source."""


def run_images(
    run: Run,
    signature: Signature,
    files: Sequence[Path],
    out_folder: Path,
    *,
    tile: int | None = None,
    halo: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Written]:
    """Run every picture and write `<stem>.png` into `out_folder`.

    Sizes that the generator does not take are padded and cut back. Transparency goes around the
    generator: kept as it is, or enlarged (bicubic) as much as the picture.

    Args:
        run: the generator or a session: takes one input in its port's layout and range.
        signature: of the generator; one image input, and the first output an image.
        files: pictures, or folders of them.
        out_folder: is made when needed. Two sources of one stem get `<stem>.png`, `<stem>-2.png`.
        tile: pixels a side of a tile, None to tile only pictures that are large.
        halo: pixels to each side that an output pixel depends on, see `receptive_field`; None
            when it depends on the whole picture (InstanceNorm), and then nothing is ever tiled.
        progress: is called with the pictures done and the pictures in all.

    Raises:
        UsageError: the generator takes no pictures, a result would overwrite its source, or
            tiles are asked for that would change the result.
        LeanganError: names each picture that failed; the others were written nevertheless.
    """
    if len(signature.inputs) != 1 or not is_image(signature.inputs[0]):
        names = ", ".join(f"{p.name} ({p.kind or 'unknown kind'})" for p in signature.inputs)
        raise UsageError(f"Pictures go into a generator of one image input; this has {names}.")
    if not is_image(signature.outputs[0]):
        raise UsageError(f"The output {signature.outputs[0].name!r} is no picture.")
    if tile is not None and halo is None:
        raise UsageError(
            "This generator's output depends on the whole picture at once (by a normalization "
            "over it, for one), so tiles would differ in tone; run it without tiles."
        )
    targets = _targets(files, out_folder)
    written: list[Written] = []
    failures: list[str] = []
    for done, (source, path) in enumerate(targets.items(), 1):
        try:
            written.append(_run_file(run, signature, source, path, tile, halo))
        except UsageError:  # about the generator: the next picture would fail likewise
            raise
        except LeanganError as error:
            text = str(error)
            failures.append(text if source.name in text else f"{source.name}: {text}")
        if progress:
            progress(done, len(targets))
    if failures:
        more = f" And {len(failures) - 3} more." if len(failures) > 3 else ""
        raise LeanganError(
            f"{len(failures)} of {len(targets)} pictures failed, {len(written)} are in "
            f"{out_folder}. {' '.join(failures[:3])}{more}"
        )
    return written


def _targets(files: Sequence[Path], out_folder: Path) -> dict[Path, Path]:
    """Where each picture goes: never onto a picture that is read, never two onto one."""
    sources = list(dict.fromkeys(f for given in files for f in list_images(given)))
    read = {source.resolve() for source in sources}
    targets: dict[Path, Path] = {}
    taken: set[str] = set()
    for source in sources:
        name, count = source.stem, 1
        while name.lower() in taken:  # some file systems do not tell A.png from a.png
            count += 1
            name = f"{source.stem}-{count}"
        taken.add(name.lower())
        path = out_folder / f"{name}.png"
        if path.resolve() in read:
            raise UsageError(f"The result would overwrite {path}; choose another folder with -o.")
        targets[source] = path
    return targets


def _run_file(
    run: Run, signature: Signature, source: Path, path: Path, tile: int | None, halo: int | None
) -> Written:
    picture = read_image(source)
    port = signature.inputs[0]
    output, notes = run_picture(
        run, to_port(picture.rgb, port), port, scale(signature) or 1, tile=tile, halo=halo
    )
    result = from_port(output, signature.outputs[0])[0]
    if not bool(output.isfinite().all()):
        raise LeanganError(f"The generator put out NaN or Inf for {source}.")
    alpha = picture.alpha
    if alpha is not None and alpha.shape != result.shape[1:]:
        size = list(result.shape[1:])
        alpha = F.interpolate(alpha[None, None], size, mode="bicubic", antialias=True)[0, 0]
    write_image(path, result, alpha)
    return Written(source, path, (*picture.notes, *(f"{source.name}: {n}" for n in notes)))


def run_picture(
    run: Run, x: Tensor, port: Port, factor: int, *, tile: int | None, halo: int | None
) -> tuple[Tensor, list[str]]:
    """Run one picture whole or in tiles, whichever its size and the generator call for.

    Args:
        run: the generator.
        x: in the port's layout.
        port: the input's.
        factor: how many times larger the output is.
        tile: as for `run_images`.
        halo: as for `run_images`.

    Returns:
        The output, and what there is to say about how it was made.
    """
    height, width = (x.shape[port.layout.index(letter)] for letter in "HW")
    too_large = any(
        fixed is not None and size > fixed
        for letter, size, fixed in zip(port.layout, x.shape, port.shape, strict=True)
        if letter in "HW"
    )
    large = height * width * factor**2 > WHOLE
    if halo is None:
        notes = []
        if large:
            notes.append(
                f"{width}x{height} pixels were run whole, not in tiles, because the output "
                "depends on the whole picture at once"
            )
        return _whole(run, x, port), notes
    if tile is None and not (large or too_large):
        try:
            return run_any_size(run, x, port), []
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
    notes = []
    if halo > MOST_HALO:
        notes.append(f"tiles overlap by {MOST_HALO} of the {halo} pixels that have an influence")
    tile = tile or max(TILE // factor, 64)
    return run_tiled(run, x, port, tile, min(halo, MOST_HALO)), notes


def _whole(run: Run, x: Tensor, port: Port) -> Tensor:
    try:
        return run_any_size(run, x, port)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise LeanganError(
            "The picture does not fit into memory, and cannot be run in tiles because the output "
            "depends on the whole picture at once; make it smaller."
        ) from error
