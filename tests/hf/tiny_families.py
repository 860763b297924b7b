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
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import transformers
from PIL import Image
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Sequence, Split
from transformers.models.smolvlm import processing_smolvlm

from adaptvis.models import AdaptVisLlavaConfig, AdaptVisLlavaForConditionalGeneration
from adaptvis.models.processors import build_processor

# The configuration classes take more arguments than their generated signatures tell.
hf: Any = transformers

MARKER = "<image>"
# Where models and inputs go, so that the same tests run on a GPU; all are made on the CPU.
DEVICE = os.environ.get("ADAPTVIS_TEST_DEVICE", "cpu")
HIDDEN, HEAD_SIZE, LAYERS, VOCABULARY = 64, 16, 3, 320

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

# With random weights a tied head would only repeat the last token.
_UNTIED = {"tie_word_embeddings": False}

ModelAndProcessor = tuple[Any, Any]


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


def _text(kind: str, kv_heads: int = 2, **extra: Any) -> dict[str, Any]:
    return {
        "model_type": kind,
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HIDDEN // HEAD_SIZE,
        "num_key_value_heads": kv_heads,
        "head_dim": HEAD_SIZE,
        "max_position_embeddings": 4096,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **_UNTIED,
        **extra,
    }


def _vision(kind: str, image_size: Any, patch_size: Any, **extra: Any) -> dict[str, Any]:
    return {
        "model_type": kind,
        "image_size": image_size,
        "patch_size": patch_size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        **extra,
    }


def _llava() -> ModelAndProcessor:
    tok = tokenizer(image_token="<image>")
    config = hf.LlavaConfig(
        vision_config=_vision("clip_vision_model", 56, 8, projection_dim=32),
        text_config=_text("llama", kv_heads=4),
        image_token_id=tok.image_token_id,
        image_seq_length=49,
    )
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
    return hf.LlavaForConditionalGeneration(config), processor


def _adaptvis_llava() -> ModelAndProcessor:
    """Every option on; 49 patches pooled to 25, so that neighbouring areas share patches."""
    tok = tokenizer(image_token="<image>")
    config = AdaptVisLlavaConfig(
        vision_config=_vision("clip_vision_model", 56, 8, projection_dim=32),
        text_config=_text("llama", kv_heads=4),
        image_token_id=tok.image_token_id,
        image_seq_length=25,
        vision_feature_layer=[1, 2],
        normalize=True,
        # The norms of _randomise's token embeddings.
        target_mean=float(HIDDEN**0.5),
        max_norm=1.2 * HIDDEN**0.5,
        compression=25,
    )
    images = hf.LlavaImageProcessorPil(
        size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}
    )
    processor = build_processor(config, tok, images, _chat_template("adaptvis_llava"))
    return AdaptVisLlavaForConditionalGeneration(config), processor


def _llava_next() -> ModelAndProcessor:
    tok = tokenizer(image_token="<image>")
    pinpoints = [[56, 112], [112, 56], [112, 112], [168, 56], [56, 168]]
    config = hf.LlavaNextConfig(
        vision_config=_vision("clip_vision_model", 56, 14, projection_dim=32),
        text_config=_text("mistral", sliding_window=None),
        image_token_id=tok.image_token_id,
        image_grid_pinpoints=pinpoints,
        image_seq_length=16,
    )
    processor = hf.LlavaNextProcessor(
        image_processor=hf.LlavaNextImageProcessorPil(
            size={"shortest_edge": 56},
            crop_size={"height": 56, "width": 56},
            image_grid_pinpoints=pinpoints,
        ),
        tokenizer=tok,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_chat_template("llava_next"),
    )
    return hf.LlavaNextForConditionalGeneration(config), processor


def _llava_onevision() -> ModelAndProcessor:
    tok = tokenizer(image_token="<image>", video_token="<video>")
    pinpoints = [[56 * rows, 56 * columns] for rows in range(1, 5) for columns in range(1, 5)]
    config = hf.LlavaOnevisionConfig(
        vision_config=_vision("siglip_vision_model", 56, 14, vision_use_head=False),
        text_config=_text("qwen2"),
        image_token_id=tok.image_token_id,
        video_token_id=tok.video_token_id,
        image_grid_pinpoints=pinpoints,
        # Fewer than the grid's 16 tiles, so that large images are scaled down as in real use.
        vision_aspect_ratio="anyres_max_4",
    )
    processor = _images_only(
        hf.LlavaOnevisionProcessor,
        image_processor=hf.LlavaOnevisionImageProcessorPil(
            size={"height": 56, "width": 56}, image_grid_pinpoints=pinpoints
        ),
        tokenizer=tok,
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_4",
        chat_template=_chat_template("llava_onevision"),
    )
    return hf.LlavaOnevisionForConditionalGeneration(config), processor


def _qwen(
    family: str,
    config_class: type,
    model_class: type,
    processor_class: type,
    patch_size: int,
    vision: dict[str, Any],
    mrope_section: list[int],
    interleaved: bool = False,
) -> ModelAndProcessor:
    tok = tokenizer(
        image_token="<|image_pad|>",
        video_token="<|video_pad|>",
        vision_start_token="<|vision_start|>",
        vision_end_token="<|vision_end|>",
    )
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": mrope_section}
    if interleaved:
        rope["mrope_interleaved"] = True
    text = _text(f"{family}_text", rope_parameters=rope)
    if family != "qwen3_vl":
        del text["head_dim"]
    config = config_class(
        vision_config={"patch_size": patch_size, "depth": 2, "num_heads": 2, **vision},
        text_config=text,
        image_token_id=tok.image_token_id,
        video_token_id=tok.video_token_id,
        vision_start_token_id=tok.vision_start_token_id,
        vision_end_token_id=tok.vision_end_token_id,
    )
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
    return model_class(config), processor


def _qwen2_vl() -> ModelAndProcessor:
    return _qwen(
        "qwen2_vl",
        hf.Qwen2VLConfig,
        hf.Qwen2VLForConditionalGeneration,
        hf.Qwen2VLProcessor,
        patch_size=14,
        vision={"embed_dim": 32, "hidden_size": HIDDEN, "mlp_ratio": 2},
        mrope_section=[2, 3, 3],
    )


def _qwen2_5_vl() -> ModelAndProcessor:
    return _qwen(
        "qwen2_5_vl",
        hf.Qwen2_5_VLConfig,
        hf.Qwen2_5_VLForConditionalGeneration,
        hf.Qwen2_5_VLProcessor,
        patch_size=14,
        vision={
            "hidden_size": 32,
            "intermediate_size": 64,
            "out_hidden_size": HIDDEN,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        },
        mrope_section=[2, 3, 3],
    )


def _qwen3_vl() -> ModelAndProcessor:
    return _qwen(
        "qwen3_vl",
        hf.Qwen3VLConfig,
        hf.Qwen3VLForConditionalGeneration,
        hf.Qwen3VLProcessor,
        patch_size=16,
        vision={
            "hidden_size": 32,
            "intermediate_size": 64,
            "out_hidden_size": HIDDEN,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0, 1],
        },
        mrope_section=[4, 2, 2],
        interleaved=True,
    )


def _gemma3() -> ModelAndProcessor:
    tok = tokenizer(
        image_token="<image_soft_token>", boi_token="<start_of_image>", eoi_token="<end_of_image>"
    )
    config = hf.Gemma3Config(
        vision_config=_vision("siglip_vision_model", 64, 8, vision_use_head=False),
        text_config=_text(
            "gemma3_text",
            query_pre_attn_scalar=HEAD_SIZE,
            sliding_window=8,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        ),
        mm_tokens_per_image=16,
        image_token_id=tok.image_token_id,
        boi_token_index=tok.boi_token_id,
        eoi_token_index=tok.eoi_token_id,
        **_UNTIED,
    )
    processor = hf.Gemma3Processor(
        image_processor=hf.Gemma3ImageProcessorPil(size={"height": 64, "width": 64}),
        tokenizer=tok,
        image_seq_length=16,
        chat_template=_chat_template("gemma3"),
    )
    return hf.Gemma3ForConditionalGeneration(config), processor


def _internvl() -> ModelAndProcessor:
    tok = tokenizer(
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    config = hf.InternVLConfig(
        vision_config=_vision("internvl_vision", [64, 64], [8, 8], layer_scale_init_value=1.0),
        text_config=_text("qwen2"),
        image_token_id=tok.context_image_token_id,
        image_seq_length=16,
        downsample_ratio=0.5,
        **_UNTIED,
    )
    processor = _images_only(
        hf.InternVLProcessor,
        image_processor=hf.GotOcr2ImageProcessorPil(
            size={"height": 64, "width": 64}, crop_to_patches=True, min_patches=1, max_patches=6
        ),
        tokenizer=tok,
        image_seq_length=16,
        chat_template=_chat_template("internvl"),
    )
    return hf.InternVLForConditionalGeneration(config), processor


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


def _idefics3() -> ModelAndProcessor:
    tok = _split_image_tokenizer()
    config = hf.Idefics3Config(
        vision_config=_vision("idefics3_vision", 64, 8),
        text_config=_text("llama"),
        image_token_id=tok.image_token_id,
        scale_factor=2,
        pad_token_id=0,
    )
    processor = hf.Idefics3Processor(
        image_processor=hf.Idefics3ImageProcessorPil(
            size={"longest_edge": 128}, max_image_size={"longest_edge": 64}
        ),
        tokenizer=tok,
        image_seq_len=16,
        chat_template=_chat_template("idefics3"),
    )
    return hf.Idefics3ForConditionalGeneration(config), processor


def _smolvlm() -> ModelAndProcessor:
    if processing_smolvlm.num2words is None:
        processing_smolvlm.num2words = str
    tok = _split_image_tokenizer()
    config = hf.SmolVLMConfig(
        vision_config=_vision("smolvlm_vision", 64, 8),
        text_config=_text("llama"),
        image_token_id=tok.image_token_id,
        scale_factor=2,
        pad_token_id=0,
    )
    processor = _images_only(
        hf.SmolVLMProcessor,
        image_processor=hf.SmolVLMImageProcessorPil(
            size={"longest_edge": 128}, max_image_size={"longest_edge": 64}
        ),
        tokenizer=tok,
        image_seq_len=16,
        chat_template=_chat_template("smolvlm"),
    )
    return hf.SmolVLMForConditionalGeneration(config), processor


def _paligemma() -> ModelAndProcessor:
    tok = tokenizer(image_token="<image>")
    image_processor = hf.SiglipImageProcessorPil(size={"height": 56, "width": 56})
    image_processor.image_seq_length = 16
    processor = hf.PaliGemmaProcessor(
        image_processor=image_processor, tokenizer=tok, chat_template=_chat_template("paligemma")
    )
    config = hf.PaliGemmaConfig(
        vision_config=_vision(
            "siglip_vision_model", 56, 14, vision_use_head=False, projection_dim=HIDDEN
        ),
        # The processor adds 1152 location and segment tokens.
        text_config=_text("gemma", kv_heads=1, vocab_size=len(processor.tokenizer)),
        projection_dim=HIDDEN,
        image_token_id=tok.image_token_id,
        **_UNTIED,
    )
    return hf.PaliGemmaForConditionalGeneration(config), processor


_BUILDERS: dict[str, Callable[[], ModelAndProcessor]] = {
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


@torch.no_grad()
def _randomise(model: Any, seed: int) -> None:
    """Weights large enough that attention logits have a standard deviation of order one."""
    generator = torch.Generator().manual_seed(seed)
    # Gemma multiplies its embeddings by the square root of the hidden size.
    gemma = model.config.get_text_config().model_type.startswith("gemma")
    token_std = HIDDEN**-0.5 if gemma else 1.0

    def fill(parameter: torch.Tensor, std: float, mean: float = 0.0) -> None:
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * std + mean)

    for name, parameter in model.named_parameters():
        if re.search(r"[qk]_proj\.weight|qkv\.weight", name):
            fill(parameter, 0.2)
        elif "norm" in name or "ln_q" in name:
            # Close to what each class starts with: ones, or Gemma's zeros (it adds the one).
            start = parameter.mean().item()
            fill(parameter, 0.1, mean=start)
        elif "embed_tokens" in name:
            fill(parameter, token_std)
        elif "embed" in name or "newline" in name or "cls_token" in name:
            fill(parameter, 0.3)
        elif name.endswith("lm_head.weight"):
            fill(parameter, 0.4)
        elif parameter.ndim == 1:
            fill(parameter, 0.05, mean=1.0 if "lambda" in name else 0.0)
        elif name.endswith("mm_input_projection_weight"):
            fill(parameter, parameter.shape[0] ** -0.5)
        else:
            fill(parameter, parameter[0].numel() ** -0.5)


@cache
def build(family: str, seed: int = 0) -> ModelAndProcessor:
    """Model (float32, eval) and processor of one family; the same objects within a process.

    Tests that change either must work on a ``copy.deepcopy``.
    """
    with torch.device("cpu"):
        model, processor = _BUILDERS[family]()
        _randomise(model, seed)
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    # Nothing ends a generation early: max_new_tokens is the number of tokens.
    model.generation_config.eos_token_id = None
    return model.float().to(DEVICE).eval().requires_grad_(False), processor


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
