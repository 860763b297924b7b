"""A tiny random-weight model and the real processor for every supported family, built offline.

``build(family)`` gives real transformers classes with small configurations (hidden size 64, head
size 16, three decoder layers) in float32 and eval mode; ``encode`` turns prompts and images into
one left-padded batch. Prompts mark an image with ``<image>``, whatever the family calls it.

Without torchvision there are no video processors, and SmolVLM's processor also asks for num2words;
both serve videos only. The processors of the families with video are therefore subclassed here to
accept ``video_processor=None``, and num2words is replaced by ``str`` where it is not installed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from PIL import Image
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Sequence, Split
from transformers.models.smolvlm import processing_smolvlm

from adaptvis.hf.self_check.tiny_models import HIDDEN, tiny_config, tiny_model
from adaptvis.models.processors import build_processor

# The configuration classes take more arguments than their generated signatures tell.
hf: Any = transformers

__all__ = [
    "FAMILIES",
    "HIDDEN",
    "MARKER",
    "PLACEHOLDER",
    "TEXT_ONLY_FAMILIES",
    "build",
    "encode",
    "tokenizer",
]

MARKER = "<image>"
# Where models and inputs go, so that the same tests run on a GPU; all are made on the CPU.
DEVICE = os.environ.get("ADAPTVIS_TEST_DEVICE", "cpu")

_WORDS = """a an the is are was what where which how many who do does see answer question yes no
not of on in at to by with and or left right above below under over top bottom front behind next
near far between inside outside image picture first second third two three four one red green blue
yellow black white cat dog cup plate book table chair man woman car tree square circle triangle
object color shape describe compare relation position side Here original here some crops help you
better user assistant : ? . , ! ' -"""

# The markup each processor expects in the prompt for one image.
PLACEHOLDER = {
    "llava": "<image>",
    "adaptvis_llava": "<image>",
    "llava_next": "<image>",
    "llava_onevision": "<image>",
    "qwen2_vl": "<|vision_start|><|image_pad|><|vision_end|>",
    "qwen2_5_vl": "<|vision_start|><|image_pad|><|vision_end|>",
    "qwen3_vl": "<|vision_start|><|image_pad|><|vision_end|>",
    "gemma3": "<start_of_image>",
    "internvl": "<IMG_CONTEXT>",
    "smolvlm": "<image>",
    "idefics3": "<image>",
    "paligemma": "<image>",
}
FAMILIES = tuple(PLACEHOLDER)
# PaliGemma's processor refuses prompts without an image.
TEXT_ONLY_FAMILIES = tuple(family for family in FAMILIES if family != "paligemma")

ModelAndProcessor = tuple[Any, Any]
ConfigAndProcessor = tuple[Any, Any]


class _ImagesOnly:
    """Mixin for processors: a missing video processor is accepted."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        if argument_name == "video_processor" and argument is None:
            return type(None)
        return super().check_argument_for_proper_class(argument_name, argument)  # type: ignore[misc]


def _images_only(processor_class: type, **pieces: Any) -> Any:
    name = processor_class.__name__
    return type(name, (_ImagesOnly, processor_class), {})(video_processor=None, **pieces)


def tokenizer(**named_tokens: str) -> Any:
    """Word-level fast tokenizer, left padding; newline and punctuation are tokens of their own.

    ``named_tokens`` become special tokens and attributes (``image_token="<image>"``).
    """
    special = ["<pad>", "<bos>", "<eos>", "<unk>", *named_tokens.values()]
    vocabulary = {word: index for index, word in enumerate([*special, "\n", *_WORDS.split()])}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = Sequence(
        [Split(Regex(" +"), "removed"), Split(Regex(r"\n|[^\s\w]"), "isolated")]
    )
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
        extra_special_tokens=named_tokens,
    )


def _chat_template(family: str) -> str:
    return (
        "{% for message in messages %}{{ message['role'] }} : "
        "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
        f"{PLACEHOLDER[family]}"
        "{% else %}{{ part['text'] }}{% endif %} {% endfor %}{% endfor %}"
        "{% if add_generation_prompt %}assistant :{% endif %}"
    )


def _llava() -> ConfigAndProcessor:
    tok = tokenizer(image_token="<image>")
    config = tiny_config("llava", {"image": tok.image_token_id})
    processor = hf.LlavaProcessor(
        image_processor=hf.LlavaImageProcessorPil(
            size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}
        ),
        tokenizer=tok,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_chat_template("llava"),
    )
    return config, processor


def _adaptvis_llava() -> ConfigAndProcessor:
    """Every option on; 49 patches pooled to 25, so that neighbouring areas share patches."""
    tok = tokenizer(image_token="<image>")
    config = tiny_config("adaptvis_llava", {"image": tok.image_token_id})
    images = hf.LlavaImageProcessorPil(
        size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}
    )
    processor = build_processor(config, tok, images, _chat_template("adaptvis_llava"))
    return config, processor


def _llava_next() -> ConfigAndProcessor:
    tok = tokenizer(image_token="<image>")
    config = tiny_config("llava_next", {"image": tok.image_token_id})
    processor = hf.LlavaNextProcessor(
        image_processor=hf.LlavaNextImageProcessorPil(
            size={"shortest_edge": 56},
            crop_size={"height": 56, "width": 56},
            image_grid_pinpoints=config.image_grid_pinpoints,
        ),
        tokenizer=tok,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_chat_template("llava_next"),
    )
    return config, processor


def _llava_onevision() -> ConfigAndProcessor:
    tok = tokenizer(image_token="<image>", video_token="<video>")
    config = tiny_config(
        "llava_onevision", {"image": tok.image_token_id, "video": tok.video_token_id}
    )
    processor = _images_only(
        hf.LlavaOnevisionProcessor,
        image_processor=hf.LlavaOnevisionImageProcessorPil(
            size={"height": 56, "width": 56}, image_grid_pinpoints=config.image_grid_pinpoints
        ),
        tokenizer=tok,
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_4",
        chat_template=_chat_template("llava_onevision"),
    )
    return config, processor


def _qwen(family: str, processor_class: type, patch_size: int) -> ConfigAndProcessor:
    tok = tokenizer(
        image_token="<|image_pad|>",
        video_token="<|video_pad|>",
        vision_start_token="<|vision_start|>",
        vision_end_token="<|vision_end|>",
    )
    names = ("image", "video", "vision_start", "vision_end")
    config = tiny_config(family, {name: getattr(tok, f"{name}_token_id") for name in names})
    side = 2 * patch_size
    processor = _images_only(
        processor_class,
        image_processor=hf.Qwen2VLImageProcessorPil(
            patch_size=patch_size,
            merge_size=2,
            size={"shortest_edge": 6 * side * side, "longest_edge": 24 * side * side},
        ),
        tokenizer=tok,
        chat_template=_chat_template(family),
    )
    return config, processor


def _qwen2_vl() -> ConfigAndProcessor:
    return _qwen("qwen2_vl", hf.Qwen2VLProcessor, 14)


def _qwen2_5_vl() -> ConfigAndProcessor:
    return _qwen("qwen2_5_vl", hf.Qwen2_5_VLProcessor, 14)


def _qwen3_vl() -> ConfigAndProcessor:
    return _qwen("qwen3_vl", hf.Qwen3VLProcessor, 16)


def _gemma3() -> ConfigAndProcessor:
    tok = tokenizer(
        image_token="<image_soft_token>", boi_token="<start_of_image>", eoi_token="<end_of_image>"
    )
    config = tiny_config(
        "gemma3", {"image": tok.image_token_id, "begin": tok.boi_token_id, "end": tok.eoi_token_id}
    )
    processor = hf.Gemma3Processor(
        image_processor=hf.Gemma3ImageProcessorPil(size={"height": 64, "width": 64}),
        tokenizer=tok,
        image_seq_length=16,
        chat_template=_chat_template("gemma3"),
    )
    return config, processor


def _internvl() -> ConfigAndProcessor:
    tok = tokenizer(
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    config = tiny_config("internvl", {"image": tok.context_image_token_id})
    processor = _images_only(
        hf.InternVLProcessor,
        image_processor=hf.GotOcr2ImageProcessorPil(
            size={"height": 64, "width": 64}, crop_to_patches=True, min_patches=1, max_patches=6
        ),
        tokenizer=tok,
        image_seq_length=16,
        chat_template=_chat_template("internvl"),
    )
    return config, processor


def _split_image_tokenizer() -> Any:
    tiles = {
        f"row_{row}_col_{column}_token": f"<row_{row}_col_{column}>"
        for row in range(1, 7)
        for column in range(1, 7)
    }
    return tokenizer(
        image_token="<image>",
        fake_image_token="<fake_token_around_image>",
        end_of_utterance_token="<end_of_utterance>",
        global_image_token="<global-img>",
        video_token="<video>",
        **tiles,
    )


def _idefics3() -> ConfigAndProcessor:
    tok = _split_image_tokenizer()
    config = tiny_config("idefics3", {"image": tok.image_token_id})
    processor = hf.Idefics3Processor(
        image_processor=hf.Idefics3ImageProcessorPil(
            size={"longest_edge": 128}, max_image_size={"longest_edge": 64}
        ),
        tokenizer=tok,
        image_seq_len=16,
        chat_template=_chat_template("idefics3"),
    )
    return config, processor


def _smolvlm() -> ConfigAndProcessor:
    if processing_smolvlm.num2words is None:
        processing_smolvlm.num2words = str
    tok = _split_image_tokenizer()
    config = tiny_config("smolvlm", {"image": tok.image_token_id})
    processor = _images_only(
        hf.SmolVLMProcessor,
        image_processor=hf.SmolVLMImageProcessorPil(
            size={"longest_edge": 128}, max_image_size={"longest_edge": 64}
        ),
        tokenizer=tok,
        image_seq_len=16,
        chat_template=_chat_template("smolvlm"),
    )
    return config, processor


def _paligemma() -> ConfigAndProcessor:
    tok = tokenizer(image_token="<image>")
    image_processor = hf.SiglipImageProcessorPil(size={"height": 56, "width": 56})
    image_processor.image_seq_length = 16
    processor = hf.PaliGemmaProcessor(
        image_processor=image_processor, tokenizer=tok, chat_template=_chat_template("paligemma")
    )
    config = tiny_config("paligemma", {"image": tok.image_token_id}, len(processor.tokenizer))
    return config, processor


_BUILDERS: dict[str, Callable[[], ConfigAndProcessor]] = {
    "llava": _llava,
    "adaptvis_llava": _adaptvis_llava,
    "llava_next": _llava_next,
    "llava_onevision": _llava_onevision,
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "gemma3": _gemma3,
    "internvl": _internvl,
    "smolvlm": _smolvlm,
    "idefics3": _idefics3,
    "paligemma": _paligemma,
}


@cache
def build(family: str, seed: int = 0) -> ModelAndProcessor:
    """Model (float32, eval) and processor of one family; the same objects within a process.

    Tests that change either must work on a ``copy.deepcopy``.
    """
    with torch.device("cpu"):
        try:
            config, processor = _BUILDERS[family]()
        except ImportError as problem:
            old = Version(transformers.__version__) < Version("5.18")
            missing = "torchvision" in str(problem).lower()
            if not (old and missing and family in ("idefics3", "smolvlm")):
                raise
            pytest.skip(
                "Idefics3's and SmolVLM's image processors for Pillow need torchvision before "
                f"transformers 5.18, and this is {transformers.__version__}: install the one "
                "made for this torch, or a later transformers"
            )
        model = tiny_model(config, seed)
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    return model.to(DEVICE), processor


def encode(
    family: str, processor: Any, prompts: list[str], images: list[list[Image.Image]], **kwargs: Any
) -> Any:
    """One left-padded batch: ``input_ids`` [batch, length], ``attention_mask``, pixel inputs.

    Each prompt marks its images with ``<image>``; without a mark they are put in front. A prompt
    may have several images or none (except PaliGemma, see ``TEXT_ONLY_FAMILIES``); ``kwargs`` go
    to the processor.
    """
    texts = []
    for prompt, own in zip(prompts, images, strict=True):
        if MARKER not in prompt:
            prompt = MARKER * len(own) + " " + prompt
        if prompt.count(MARKER) != len(own):
            raise ValueError(f"{prompt!r} marks {prompt.count(MARKER)} images, {len(own)} given")
        texts.append(prompt.replace(MARKER, PLACEHOLDER[family]))

    pixels: Any
    if not any(images):
        pixels = None
    elif family in ("gemma3", "smolvlm"):
        pixels = images
    elif family == "llava_onevision":
        pixels = [own for own in images if own]
    else:
        pixels = [image for own in images for image in own]
    with torch.device("cpu"):
        batch = processor(text=texts, images=pixels, padding=True, return_tensors="pt", **kwargs)
    batch.pop("labels", None)  # PaliGemma's processor always adds them
    return batch.to(DEVICE)
