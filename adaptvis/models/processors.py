"""Tokenizer and image processor of a LLaVA, made to fit its configuration."""

from __future__ import annotations

import copy
import math
from typing import Any, Literal

import transformers
from transformers import LlavaProcessor

from adaptvis.errors import ConfigError
from adaptvis.models.chat import VICUNA_CHAT_TEMPLATE
from adaptvis.models.configuration import AdaptVisLlavaConfig

__all__ = [
    "IMAGE_TOKEN",
    "AspectRatio",
    "add_placeholders",
    "build_processor",
    "placeholder_patch",
    "with_aspect_ratio",
    "with_images",
]

AspectRatio = Literal["crop", "pad"]
"""What becomes of an image that is not square: its middle, or the whole of it on a square."""

IMAGE_TOKEN = "<image>"
PAD_TOKEN = "<pad>"
_IMAGE_SETTINGS = (
    "size",
    "crop_size",
    "default_to_square",
    "resample",
    "do_convert_rgb",
    "do_normalize",
    "do_rescale",
    "do_resize",
    "image_mean",
    "image_std",
    "rescale_factor",
)


def add_placeholders(tokenizer: Any) -> None:
    """Add ``<image>``, and ``<pad>`` where nothing pads, as special tokens behind the others."""
    if IMAGE_TOKEN not in tokenizer.get_vocab():
        tokenizer.add_tokens([IMAGE_TOKEN], special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})


def placeholder_patch(image_size: int, patch_size: int, compression: int | None) -> int:
    """The patch size from which LlavaProcessor counts the right number of placeholders.

    It writes ``(height // patch_size) * (width // patch_size)`` of them.

    Raises:
        ConfigError: no whole patch size gives that number.
    """
    if compression is None:
        return patch_size
    side = math.isqrt(compression)
    patch = image_size // side
    if image_size // patch != side:
        fitting = [s * s for s in range(1, side) if image_size // (image_size // s) == s]
        raise ConfigError(
            f"compression {compression} cannot be written as placeholders of an image of "
            f"{image_size} pixels; the next smaller number of tokens that can is {fitting[-1]}"
        )
    return patch


def with_images(template: str | None, tokenizer: Any) -> str:
    """A chat template that writes one placeholder for an image, else LLaVA-1.5's."""
    if template is None:
        return VICUNA_CHAT_TEMPLATE
    content = [{"type": "image"}, {"type": "text", "text": "?"}]
    try:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], chat_template=template, tokenize=False
        )
    # Templates raise what they like when they meet content that they were not written for.
    except Exception:
        return VICUNA_CHAT_TEMPLATE
    return template if text.count(IMAGE_TOKEN) == 1 else VICUNA_CHAT_TEMPLATE


def build_processor(
    config: AdaptVisLlavaConfig, tokenizer: Any, image_processor: Any, template: str | None
) -> LlavaProcessor:
    """The processor whose prompts have as many placeholders as the model has image tokens.

    Raises:
        ConfigError: the image processor makes images of another size than the tower takes.
    """
    side = config.vision_config.image_size
    made = _image_side(image_processor)
    if made is not None and made != side:
        raise ConfigError(
            f"The image processor makes images of {made} pixels and the vision tower takes {side}; "
            "use the preprocessor_config.json that belongs to the tower"
        )
    tokenizer.padding_side = "left"
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=placeholder_patch(side, config.vision_config.patch_size, config.compression),
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=int(config.has_class_token),
        chat_template=with_images(template, tokenizer),
    )


def with_aspect_ratio(processor: Any, aspect_ratio: AspectRatio) -> Any:
    """The processor with another treatment of images that are not square.

    "pad" puts the image on a square of the mean colour before it is resized, as LLaVA-1.5's
    ``image_aspect_ratio: pad``; "crop" resizes the shorter side and cuts the middle out. What is
    saved and loaded again does the same. The processor given is not changed.
    """
    own = processor.image_processor
    pads = bool(getattr(own, "do_pad", False))
    if pads == (aspect_ratio == "pad"):
        return processor
    made = copy.copy(processor)
    if pads:
        made.image_processor = copy.deepcopy(own)
        made.image_processor.do_pad = False
        return made
    settings = {k: v for k, v in own.to_dict().items() if k in _IMAGE_SETTINGS and v is not None}
    # A tower whose processor does not crop says nothing about it, and LLaVA's crops by default.
    settings["do_center_crop"] = bool(getattr(own, "do_center_crop", False))
    # Looked up late: without torchvision the library warns when its other backend is imported.
    pil = getattr(own, "backend", "pil") == "pil"
    kind = getattr(transformers, "LlavaImageProcessorPil" if pil else "LlavaImageProcessor")
    made.image_processor = kind(**settings, do_pad=True)
    return made


def _image_side(image_processor: Any) -> int | None:
    size = image_processor.size
    if getattr(image_processor, "do_center_crop", False):
        size = image_processor.crop_size
    height, width = (getattr(size, name, None) for name in ("height", "width"))
    if isinstance(size, dict):
        height, width = size.get("height"), size.get("width")
    return height if height == width else None
