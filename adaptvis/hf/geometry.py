"""Pixel boxes of image tokens for the model families of transformers.

:func:`image_token_boxes` reads crop, resize and tile settings from the processor and the model
configuration and asks the image processor's own helpers how many tiles an image gets, so that it
follows whatever the user has set. The geometry itself is in
:mod:`adaptvis.steering.token_boxes`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers.image_processing_utils import get_patch_output_size, select_best_resolution
from transformers.image_utils import ChannelDimension

from adaptvis.errors import PromptError, UnknownFamilyError, UnsupportedError, unknown_name
from adaptvis.hf.image_setup import (
    ImageSetup,
    blank_picture,
    centre_cropped,
    own_function,
    padded_to_square,
    require_tokens,
    resized,
    square_side,
)
from adaptvis.steering.token_boxes import (
    Canvas,
    anyres_boxes,
    cell_intervals,
    grid_boxes,
    interval_boxes,
    no_place,
    pool_intervals,
    tile_boxes,
)

__all__ = ["GEOMETRIES", "Geometry", "image_token_boxes"]

Geometry = Callable[[ImageSetup], Tensor]


def image_token_boxes(
    processor: Any,
    config: Any,
    image_size: tuple[int, int],
    *,
    images_in_prompt: int = 1,
    image_kwargs: Mapping[str, Any] | None = None,
) -> Tensor:
    """The pixel box of every image token of one image.

    Args:
        processor: the family's processor (with ``image_processor``).
        config: the model's configuration; its ``model_type`` picks the geometry.
        image_size: (width, height) of the image as given to the processor, in pixels.
        images_in_prompt: what LLaVA-OneVision's processor returns as ``batch_num_images`` for the
            prompt: it cuts a single image into tiles and pads each of several to a square.
        image_kwargs: image settings that were given to the processor call itself, such as
            ``{"do_pan_and_scan": True}``.

    Returns:
        float64 [num_image_tokens, 4]: (left, top, right, bottom) in original pixels, in the order
        of the image's placeholder tokens in ``input_ids``; NaN for tokens without a place.

    Raises:
        UnknownFamilyError: no geometry is known for the model type.
        UnsupportedError: the processor's settings are of a kind that is not followed here.
        PromptError: the image size is impossible, or the processor would refuse it.
    """
    geometry = GEOMETRIES.get(config.model_type)
    if geometry is None:
        raise UnknownFamilyError(
            unknown_name("model type", config.model_type, GEOMETRIES)
            + "; regions need one of these, steer all image tokens instead"
        )
    width, height = image_size
    if width < 1 or height < 1:
        raise PromptError(f"image_size must be (width, height) in pixels above 0, got {image_size}")
    setup = ImageSetup(
        processor, config, (int(width), int(height)), images_in_prompt, image_kwargs or {}
    )
    return geometry(setup)


def _cropped_grid(setup: ImageSetup) -> Tensor:
    """LLaVA-1.5: optional square padding, shortest-edge resize and centre crop; one grid."""
    if setup.config.vision_config.model_type == "pixtral":
        raise UnsupportedError(
            "Regions are not available for LLaVA with a Pixtral vision tower, whose prompts carry "
            "row break tokens; steer all image tokens instead"
        )
    canvas = Canvas.of(setup.image_size)
    if setup.setting("do_pad", False):
        canvas = padded_to_square(canvas)
    if setup.setting("do_resize"):
        canvas = resized(canvas, setup.size())
    if setup.setting("do_center_crop"):
        crop = setup.size("crop_size")
        backend = getattr(setup.image_processor, "backend", "pil")
        canvas = centre_cropped(canvas, crop["width"], crop["height"], backend)
    return torch.cat([no_place(_class_tokens(setup)), _patches(setup, canvas)])


def _patches(setup: ImageSetup, canvas: Canvas) -> Tensor:
    """One box per patch, or per pooled area of our own LLaVA's compression."""
    compression = getattr(setup.config, "compression", None)
    if compression is None:
        return grid_boxes(canvas, setup.vision_patch)
    down, across = (
        pool_intervals(cell_intervals(length, setup.vision_patch), math.isqrt(compression))
        for length in (canvas.height, canvas.width)
    )
    return interval_boxes(canvas, down, across).flatten(0, 1)


def _class_tokens(setup: ImageSetup) -> int:
    """Tokens before the grid that the feature selection keeps: the class token with "full"."""
    dropped = setup.processor.vision_feature_select_strategy == "default"
    extra = int(setup.processor.num_additional_image_tokens) - int(dropped)
    if extra < 0:
        raise UnsupportedError(
            "The processor drops a class token that it does not count: with "
            "vision_feature_select_strategy='default' set num_additional_image_tokens=1"
        )
    return extra


def _anyres(setup: ImageSetup) -> Tensor:
    """LLaVA-NeXT: the whole image stretched to one tile, then tiles of the padded image."""
    if _class_tokens(setup):
        raise UnsupportedError(
            "LLaVA-NeXT cannot lay out tiles that keep their class token; set "
            "vision_feature_select_strategy='default'"
        )
    return torch.cat(_base_and_tiles(setup, max_tiles=None))


def _anyres_or_square(setup: ImageSetup) -> Tensor:
    """LLaVA-OneVision: as LLaVA-NeXT with a cap; each of several images is one padded square."""
    match = re.fullmatch(r"anyres_max_(\d+)", setup.config.vision_aspect_ratio)
    if match is None:
        raise UnsupportedError(
            f"vision_aspect_ratio {setup.config.vision_aspect_ratio!r} is not understood; expected "
            "'anyres_max_' and a number of tiles"
        )
    if setup.images_in_prompt == 1:
        base, tiles = _base_and_tiles(setup, max_tiles=int(match.group(1)))
    else:
        tile = _tile_side(setup)
        square = padded_to_square(Canvas.of(setup.image_size)).resized(tile, tile)
        base, tiles = grid_boxes(square, setup.vision_patch), no_place(1)
    require_tokens(len(base), setup, "num_image_tokens")
    return torch.cat([base, tiles])


def _tile_side(setup: ImageSetup) -> int:
    """Side of a tile, provided that tiles pass through resize and crop unchanged."""
    tile = square_side(setup.config.vision_config.image_size)
    size, crop = setup.size(), setup.size("crop_size")
    sides = {*size.values(), *(crop.values() if crop else ())}
    multiples = all(edge % tile == 0 for pair in _pinpoints(setup) for edge in pair)
    if sides != {tile} or not multiples:
        raise UnsupportedError(
            f"Regions need tiles of the vision tower's {tile} pixels: size {size}, crop_size {crop}"
            " and every image_grid_pinpoints entry must be that or a multiple of it"
        )
    if not setup.setting("do_resize"):
        raise UnsupportedError("Regions need tiles of one size: set do_resize=True")
    return tile


def _pinpoints(setup: ImageSetup) -> list[list[int]]:
    return list(setup.setting("image_grid_pinpoints"))


def _base_and_tiles(setup: ImageSetup, max_tiles: int | None) -> tuple[Tensor, Tensor]:
    tile, patch = _tile_side(setup), setup.vision_patch
    image = Canvas.of(setup.image_size)
    base = grid_boxes(image.resized(tile, tile), patch)
    target = select_best_resolution((int(image.height), int(image.width)), _pinpoints(setup))
    height, width = get_patch_output_size(blank_picture(image), target, ChannelDimension.FIRST)
    canvas = image.resized(width, height).centred(target[1], target[0])
    return base, anyres_boxes(canvas, tile, patch, setup.image_size, max_tiles)


def _smart_resized_grid(setup: ImageSetup) -> Tensor:
    """Qwen: sides rounded to whole merged patches; one token per merged patch."""
    cell = setup.setting("patch_size") * setup.setting("merge_size")
    canvas = Canvas.of(setup.image_size)
    if setup.setting("do_resize"):
        size = setup.size()
        # Arguments of the call in the older spelling; the attributes have been folded into size.
        low = setup.image_kwargs.get("min_pixels") or size["shortest_edge"]
        high = setup.image_kwargs.get("max_pixels") or size["longest_edge"]
        smart_resize = own_function(setup.image_processor, "smart_resize")
        width, height = setup.image_size
        try:
            height, width = smart_resize(height, width, cell, min_pixels=low, max_pixels=high)
        except ValueError as error:
            raise PromptError(f"The image processor refuses {setup.image_size}: {error}") from None
        canvas = canvas.resized(width, height)
    elif canvas.width % cell or canvas.height % cell:
        raise PromptError(
            f"Without do_resize the image's sides must be multiples of {cell} pixels, got "
            f"{setup.image_size}; resize the image or set do_resize=True"
        )
    return grid_boxes(canvas, cell)


def _stretched_grid(setup: ImageSetup) -> Tensor:
    """PaliGemma and Gemma-3: the image stretched to a fixed size, perhaps pooled; one grid.

    With pan and scan (Gemma-3) crops of the original image follow, each stretched likewise.
    """
    patch = setup.vision_patch
    pooled = getattr(setup.config, "mm_tokens_per_image", None)
    pool = 1
    if pooled is not None:
        pool = square_side(setup.config.vision_config.image_size) // patch // math.isqrt(pooled)
    image = Canvas.of(setup.image_size)
    views = [image]
    if setup.setting("do_pan_and_scan", False):
        views += _pan_and_scan(setup, image)
    if setup.setting("do_resize"):
        views = [resized(view, setup.size()) for view in views]
    grids = [grid_boxes(view, patch * pool) for view in views]
    for grid in grids:
        require_tokens(len(grid), setup, "image_seq_length")
    return torch.cat(grids)


def _pan_and_scan(setup: ImageSetup, image: Canvas) -> list[Canvas]:
    name = "pan_and_scan"
    cut = getattr(setup.image_processor, name, None) or setup.image_processor.pan_and_scan_batched
    options = ("min_crop_size", "max_num_crops", "min_ratio_to_activate")
    crops = cut(
        blank_picture(image),
        **{f"{name}_{option}": setup.setting(f"{name}_{option}") for option in options},
    )
    # The crops lie side by side along the longer axis and span the other one.
    views, left, top = [], 0, 0
    for crop in crops:
        height, width = crop.shape[-2:]
        views.append(image.cropped(left, top, width, height))
        if image.width >= image.height:
            left += width
        else:
            top += height
    return views


def _tiles_and_thumbnail(setup: ImageSetup) -> Tensor:
    """InternVL: the image stretched over a grid of tiles, then over one more tile if many."""
    cell = setup.vision_patch / setup.config.downsample_ratio
    size = setup.size()
    width, height = size["width"], size["height"]
    image = Canvas.of(setup.image_size)
    low, high = setup.setting("min_patches"), setup.setting("max_patches")
    rows = columns = 1
    stretched = bool(setup.setting("do_resize"))
    if setup.setting("crop_to_patches") and high > 1:
        choose = own_function(setup.image_processor, "get_optimal_tiled_canvas")
        columns, rows = choose((int(image.height), int(image.width)), (height, width), low, high)
        stretched = True
    tile = image.resized(width, height) if stretched else image
    thumbnail = grid_boxes(tile, cell)
    require_tokens(len(thumbnail), setup, "image_seq_length")
    if rows * columns == 1:
        return thumbnail
    canvas = image.resized(width * columns, height * rows)
    return torch.cat([tile_boxes(canvas, rows, columns, (width, height), cell), thumbnail])


def _split_and_global(setup: ImageSetup) -> Tensor:
    """Idefics3 and SmolVLM: the image stretched over a grid of tiles, then over one tile."""
    size, tile = setup.size(), setup.size("max_image_size")["longest_edge"]
    cell = setup.vision_patch * setup.config.scale_factor
    splitting = bool(setup.setting("do_image_splitting"))
    longest = size.get("longest_edge")
    if splitting and not (setup.setting("do_resize") and longest and longest % tile == 0):
        raise UnsupportedError(
            "Regions with do_image_splitting need do_resize=True and a size['longest_edge'] that "
            f"is a multiple of max_image_size['longest_edge'] = {tile}, got {size}"
        )
    image = Canvas.of(setup.image_size)
    whole = grid_boxes(image.resized(tile, tile), cell)
    require_tokens(len(whole), setup, "image_seq_len")
    if not splitting:
        return whole
    _, rows, columns = setup.image_processor.get_number_of_image_patches(
        int(image.height),
        int(image.width),
        {"do_image_splitting": True, "size": size, "max_image_size": {"longest_edge": tile}},
    )
    if rows == 0:
        return whole
    canvas = image.resized(tile * columns, tile * rows)
    return torch.cat([tile_boxes(canvas, rows, columns, (tile, tile), cell), whole])


GEOMETRIES: dict[str, Geometry] = {
    "adaptvis_llava": _cropped_grid,
    "gemma3": _stretched_grid,
    "idefics3": _split_and_global,
    "internvl": _tiles_and_thumbnail,
    "llava": _cropped_grid,
    "llava_next": _anyres,
    "llava_onevision": _anyres_or_square,
    "paligemma": _stretched_grid,
    "qwen2_5_vl": _smart_resized_grid,
    "qwen2_vl": _smart_resized_grid,
    "qwen3_vl": _smart_resized_grid,
    "smolvlm": _split_and_global,
}
