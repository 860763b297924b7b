"""`adaptvis diagnose permutation`."""

from typing import Annotated

import typer

from adaptvis.cli.diagnose.options import (
    DEFAULT_MODEL,
    BatchSizeOption,
    DataOption,
    DtypeOption,
    LimitOption,
    MethodOption,
    ModelOption,
    OutputOption,
    PartOption,
    PresetOption,
    SeedOption,
    TaskOption,
    TrustRemoteCodeOption,
    finish,
    prepare,
)

__all__ = ["permutation"]


def permutation(
    model: ModelOption = DEFAULT_MODEL,
    task: TaskOption = "2ds",
    data: DataOption = None,
    part: PartOption = "test",
    limit: LimitOption = 200,
    seed: SeedOption = 0,
    batch_size: BatchSizeOption = None,
    preset: PresetOption = None,
    method: MethodOption = None,
    dtype: DtypeOption = "auto",
    trust_remote_code: TrustRemoteCodeOption = False,
    output: OutputOption = None,
    permutations: Annotated[int, typer.Option(help="Random orders to average over.")] = 3,
) -> None:
    """Accuracy with the image tokens in order and shuffled, and the position sensitivity (PSI).

    Example: `adaptvis diagnose permutation -m tiny-2ds-seed1 --limit 500 --permutations 5`
    """
    from adaptvis.cli.progress import Bars
    from adaptvis.diagnostics.permutation import permutation_test

    work = prepare(
        model,
        task,
        data=data,
        part=part,
        limit=limit,
        seed=seed,
        batch_size=batch_size,
        preset=preset,
        method=method,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
    )
    with Bars() as bars:
        result = permutation_test(
            work.engine,
            work.task,
            work.samples,
            permutations=permutations,
            config=work.config,
            batch_size=work.batch_size,
            seed=seed,
            settings=work.settings,
            progress=bars.show,
        )
    finish(result, output)
