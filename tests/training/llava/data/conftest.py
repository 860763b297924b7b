"""Processors and files for the tests of training data."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoProcessor, CLIPImageProcessor, LlavaProcessor, PreTrainedTokenizerFast

from adaptvis.training.llava.data import ConversationDataset

TINY = Path(__file__).parents[4] / "adaptvis/assets/models/tiny-2ds-seed0"

# As llava-1.5-7b-hf has it: no end of sequence after an answer, a space after every turn.
VICUNA_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}"
    "{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)

CORPUS = [
    "USER: What is in the picture? ASSISTANT: A red circle on the left. A naïve café, 東京 🙂.",
    "USER: Describe the image in detail. ASSISTANT: The images show two cats and a dog.",
    "USER: Where is it? ASSISTANT: left right above below, left right above below",
] * 4


def build_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE ("bytes") or a sentencepiece-like BPE with word marks ("pieces")."""
    special = ["<unk>", "<s>", "</s>", "<pad>", "<image>"]
    if kind == "bytes":
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=420, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
    else:
        core = Tokenizer(models.BPE(unk_token="<unk>"))
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        core.decoder = decoders.Metaspace(prepend_scheme="first")
        trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    core.train_from_iterator(CORPUS, trainer)
    core.add_special_tokens([AddedToken(name, special=True) for name in special])
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", core.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<image>"],
    )


def build_processor(
    tokenizer: PreTrainedTokenizerFast, template: str = VICUNA_TEMPLATE
) -> LlavaProcessor:
    """Like LLaVA-1.5's, with 28-pixel images: four image tokens."""
    return LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
        ),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )


@pytest.fixture(scope="session")
def tiny() -> Any:
    return AutoProcessor.from_pretrained(TINY)


@pytest.fixture(scope="session", params=["bytes", "pieces"])
def vicuna(request: pytest.FixtureRequest) -> LlavaProcessor:
    return build_processor(build_tokenizer(request.param))


def turns(*texts: str) -> list[dict[str, str]]:
    """Texts of human and gpt, in turn."""
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes samples, and the pictures a.png, b.png, c.png (all different) beside them."""

    def written(samples: list[Any], name: str = "data.json") -> Path:
        for number, letter in enumerate("abc"):
            pixels = np.random.default_rng(number).integers(0, 256, (40, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{letter}.png")
        lines = [json.dumps(sample, ensure_ascii=False) for sample in samples]
        jsonl = name.endswith("jsonl")
        text = "\n".join(lines) if jsonl else f"[{','.join(lines)}]"
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return written


@pytest.fixture
def load(write: Callable[..., Path], tiny: Any) -> Callable[..., ConversationDataset]:
    """A data set of these samples, with the tiny model's processor unless another is given."""

    def loaded(samples: list[Any], name: str = "data.json", **options: Any) -> ConversationDataset:
        path = write(samples, name)
        options = {"image_folder": path.parent, "processor": tiny} | options
        return ConversationDataset(path, **options)

    return loaded
