"""`adaptvis diagnose rope`."""

from typing import Annotated

import typer

from adaptvis.cli.diagnose.options import (
    DEFAULT_MODEL,
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

__all__ = ["rope"]


def rope(
    model: ModelOption = DEFAULT_MODEL,
    task: TaskOption = "2ds",
    data: DataOption = None,
    part: PartOption = "test",
    limit: LimitOption = 200,
    seed: SeedOption = 0,
    preset: PresetOption = None,
    method: MethodOption = None,
    dtype: DtypeOption = "auto",
    trust_remote_code: TrustRemoteCodeOption = False,
    output: OutputOption = None,
    steps: Annotated[
        float, typer.Option(help="Positions by which the image is moved; may be a fraction.")
    ] = 1.0,
) -> None:
    """How much attention on the image changes when its tokens are said to stand elsewhere.

    Example: `adaptvis diagnose rope -m tiny-2ds-seed1 --limit 100 --steps 0.1`
    """
    from adaptvis.cli.progress import Bars
    from adaptvis.diagnostics.rope.measure import measure_rope

    work = prepare(
        model,
        task,
        data=data,
        part=part,
        limit=limit,
        seed=seed,
        preset=preset,
        method=method,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
    )
    with Bars() as bars:
        result = measure_rope(
            work.engine,
            work.samples,
            steps=steps,
            config=work.config,
            settings=work.settings,
            progress=bars.show,
        )
    finish(result, output)
