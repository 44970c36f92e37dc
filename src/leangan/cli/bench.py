"""leangan bench: how fast a model is, runtime by runtime."""

from __future__ import annotations

from leangan.cli import options
from leangan.cli.output import answer, stdout_width
from leangan.cli.progress import progress

EPILOG = """\b
Examples:
  leangan bench zoo:dcgan-faces
  leangan bench out/generator.pt2 --on openvino,onnxruntime --threads 2 --json"""


@options.with_loading
def command(
    model: options.Model,
    on: options.On = None,
    threads: options.Threads = None,
    seed: options.Seed = 0,
    *,
    loading: options.Loading,
    json_: options.Json = False,
) -> None:
    """Measure a model as it is, in every runtime and precision.

    Each runs in turns with PyTorch eager float, so that the ratios hold on a busy machine.
    """
    names = options.runtime_names(on)
    with answer(json_) as say:
        from leangan.report.table import entries_table
        from leangan.search.compare import bench

        with progress() as report:
            result = bench(
                model, names, threads=threads, seed=seed, progress=report, **loading.keywords()
            )
        say(result, entries_table(result["entries"], None, None, width=stdout_width()))
