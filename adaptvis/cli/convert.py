"""`adaptvis convert`: LLaVA checkpoints from one layout to another, with options switched on."""

import json
from pathlib import Path
from typing import Annotated

import typer

from adaptvis.cli.console import note, out
from adaptvis.errors import ConfigError

__all__ = ["convert"]


def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder or hub id of a LLaVA-1.5: as transformers writes it, as adaptvis writes "
            "it, or of LLaVA's own code (mm_projector.bin alone included).",
        ),
    ],
    output: Annotated[Path, typer.Argument(help="Folder to write; must not hold anything yet.")],
    to: Annotated[
        str,
        typer.Option(
            help="Layout to write: adaptvis (takes every option), llava (plain, for transformers, "
            "and for vLLM where one layer of the tower is used), original (LLaVA's own code)."
        ),
    ] = "adaptvis",
    vision_tower: Annotated[
        str | None,
        typer.Option(
            help="CLIP checkpoint of a source of LLaVA's own code, which names it only "
            "(mm_vision_tower): embedded name, folder or hub id. With --to original: the name to "
            "write."
        ),
    ] = None,
    language_model: Annotated[
        str | None,
        typer.Option(help="Base language model of a projector alone: folder or hub id."),
    ] = None,
    normalize: Annotated[
        bool,
        typer.Option(
            "--normalize",
            help="Switch Normalize on: an RMSNorm behind the projector, at the text's norms.",
        ),
    ] = False,
    target_mean: Annotated[
        float | None,
        typer.Option(help="Norm to aim at; measured from the token embeddings if not given."),
    ] = None,
    max_norm: Annotated[
        float | None,
        typer.Option(help="Norm to clip at; measured from the token embeddings if not given."),
    ] = None,
    vision_feature_layers: Annotated[
        str | None,
        typer.Option(
            help="Layers of the tower that go into the projector, such as 12,16,20,24; needs "
            "--new-projector, as a trained projector has another width."
        ),
    ] = None,
    compression: Annotated[
        int | None,
        typer.Option(help="Image tokens after average pooling: a square number such as 256."),
    ] = None,
    new_projector: Annotated[
        bool,
        typer.Option("--new-projector", help="Replace the projector by a fresh, untrained one."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the fresh projector.")] = 0,
) -> None:
    """Convert a LLaVA checkpoint to another layout, bit for bit.

    No weight changes unless an option asks for it, weights go through memory one shard at a time,
    and OUTPUT appears only when it is complete. `.bin` files are read without running code.

    Example: `adaptvis convert liuhaotian/llava-v1.5-7b my-llava --vision-tower
    openai/clip-vit-large-patch14-336`

    Example: `adaptvis convert llava-hf/llava-1.5-7b-hf to-train --normalize
    --vision-feature-layers 12,16,20,24 --new-projector`
    """
    layers = _layers(vision_feature_layers)
    if seed < 0:
        raise ConfigError(f"The seed must not be negative, got {seed}")

    from adaptvis.models.conversion import convert as run

    written = run(
        source,
        output,
        to=to,
        vision_tower=vision_tower,
        language_model=language_model,
        normalize=normalize,
        target_mean=target_mean,
        max_norm=max_norm,
        vision_feature_layers=layers,
        compression=compression,
        new_projector=new_projector,
        seed=seed,
    )
    if to == "llava" and _takes_several_layers(written):
        note(
            "the projector takes several layers of the tower, which transformers runs and vLLM's "
            "LLaVA does not; for vLLM convert with --to adaptvis"
        )
    out().print(f"Wrote {written}", markup=False, soft_wrap=True)


def _takes_several_layers(folder: Path) -> bool:
    layers = json.loads((folder / "config.json").read_text())["vision_feature_layer"]
    return isinstance(layers, list) and len(layers) > 1


def _layers(text: str | None) -> int | list[int] | None:
    if text is None:
        return None
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(
            f"--vision-feature-layers takes whole numbers with commas, such as 12,16,20,24, got "
            f"{text!r}"
        ) from None
    return found[0] if len(found) == 1 else found
