"""What decides how an image becomes tokens: the settings of processor and model, and the steps.

The steps are those of the image processors' base class in transformers, applied to a
:class:`~adaptvis.steering.token_boxes.Canvas` in place of pixels.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from transformers.image_processing_utils import get_size_dict
from transformers.image_transforms import get_resize_output_image_size, get_size_with_aspect_ratio
from transformers.image_utils import ChannelDimension, get_image_size_for_max_height_width

from adaptvis.errors import UnsupportedError
from adaptvis.hf.library import image_defaults
from adaptvis.steering.token_boxes import Canvas

__all__ = [
    "ImageSetup",
    "blank_picture",
    "centre_cropped",
    "own_function",
    "padded_to_square",
    "require_tokens",
    "resized",
    "square_side",
]


@dataclass(frozen=True)
class ImageSetup:
    """One image and everything that decides how it becomes tokens.

    ``image_size`` is (width, height); ``images_in_prompt`` matters to LLaVA-OneVision only.
    """

    processor: Any
    config: Any
    image_size: tuple[int, int]
    images_in_prompt: int = 1
    image_kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def image_processor(self) -> Any:
        return self.processor.image_processor

    @property
    def vision_patch(self) -> int:
        """Side of the vision tower's patches in pixels."""
        return square_side(self.config.vision_config.patch_size)

    def setting(self, name: str, default: Any = None) -> Any:
        """A setting of the image processor, with the precedence of a processor call.

        An argument of the call beats the processor class's defaults, and those beat the image
        processor's own attribute (``ProcessorMixin._merge_kwargs``).
        """
        if self.image_kwargs.get(name) is not None:
            return self.image_kwargs[name]
        own = getattr(self.image_processor, name, default)
        return image_defaults(self.processor).get(name, own)

    def size(self, name: str = "size") -> dict[str, int]:
        """A size setting as a plain dictionary: ``height`` and ``width``, or ``shortest_edge``."""
        value = self.setting(name)
        if isinstance(value, int | list | tuple):
            square = name == "crop_size" or getattr(self.image_processor, "default_to_square", True)
            value = get_size_dict(value, default_to_square=square, param_name=name)
        return {key: edge for key, edge in dict(value or {}).items() if edge is not None}


def square_side(value: Any) -> int:
    """A side given as one number, or as a pair of equal ones."""
    if isinstance(value, int):
        return value
    sides = set(value)
    if len(sides) != 1:
        raise UnsupportedError(
            f"Regions need square patches, but the vision configuration has {tuple(value)}; steer "
            "all image tokens instead"
        )
    return int(sides.pop())


def require_tokens(found: int, setup: ImageSetup, name: str) -> None:
    expected = getattr(setup.processor, name)
    if found != expected:
        raise UnsupportedError(
            f"The image settings give {found} tokens per picture but the processor writes {name} = "
            f"{expected} placeholders; make size, patch size and {name} agree"
        )


def blank_picture(canvas: Canvas) -> np.ndarray[Any, Any]:
    """A picture of the canvas's shape for helpers that only look at it; takes no memory."""
    return np.broadcast_to(np.uint8(0), (3, int(canvas.height), int(canvas.width)))


def own_function(image_processor: Any, name: str) -> Callable[..., Any]:
    """A module-level helper from where the image processor's class, or a base of it, is defined."""
    for cls in type(image_processor).__mro__:
        function: Callable[..., Any] | None = getattr(sys.modules[cls.__module__], name, None)
        if function is not None:
            return function
    raise UnsupportedError(
        f"{type(image_processor).__name__} comes without {name}, which tells how an image is cut; "
        "use the image processor that transformers has for this model"
    )


def resized(canvas: Canvas, size: dict[str, int]) -> Canvas:
    """``resize`` of the image processors' base class."""
    shape = (int(canvas.height), int(canvas.width))
    if {"shortest_edge", "longest_edge"} <= size.keys():
        new = get_size_with_aspect_ratio(shape, size["shortest_edge"], size["longest_edge"])
    elif "shortest_edge" in size:
        new = get_resize_output_image_size(
            blank_picture(canvas),
            size["shortest_edge"],
            default_to_square=False,
            input_data_format=ChannelDimension.FIRST,
        )
    elif {"max_height", "max_width"} <= size.keys():
        new = get_image_size_for_max_height_width(shape, size["max_height"], size["max_width"])
    elif {"height", "width"} <= size.keys():
        new = (size["height"], size["width"])
    else:
        raise UnsupportedError(
            f"The image processor's size {size} is not understood; expected height and width, "
            "max_height and max_width, or shortest_edge"
        )
    return canvas.resized(width=new[1], height=new[0])


def padded_to_square(canvas: Canvas) -> Canvas:
    longest = max(canvas.width, canvas.height)
    return canvas.centred(longest, longest)


def centre_cropped(canvas: Canvas, width: int, height: int, backend: str) -> Canvas:
    """``center_crop``: PIL and torchvision put an odd row of padding at opposite ends."""
    if backend == "torchvision":
        return canvas.centred(width, height)
    return canvas.cropped((canvas.width - width) // 2, (canvas.height - height) // 2, width, height)
