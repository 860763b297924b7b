"""`adaptvis diagnose norms`."""

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

__all__ = ["norms"]


def norms(
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
) -> None:
    """Norms of image tokens against text tokens, at the language model's input and per layer.

    Example: `adaptvis diagnose norms -m tiny-2ds-seed1 --limit 100`
    """
    from adaptvis.cli.progress import Bars
    from adaptvis.diagnostics.norms import measure_norms

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
        result = measure_norms(
            work.engine,
            work.samples,
            config=work.config,
            batch_size=work.batch_size,
            seed=seed,
            settings=work.settings,
            progress=bars.show,
        )
    finish(result, output)
