"""The memory plan: closed forms against real modules, estimates against measured tensors."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, CLIPVisionConfig, LlamaConfig

from adaptvis.models import AdaptVisLlavaConfig, AdaptVisLlavaForConditionalGeneration
from adaptvis.training.llava import load_recipe, override
from adaptvis.training.llava.memory import activation_bytes, plan, trained_parameters
from adaptvis.training.llava.shapes import shapes_of


def meta_model(**options):
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )
    config = AdaptVisLlavaConfig(
        vision_config=vision, text_config=LlamaConfig(), tie_word_embeddings=False, **options
    )
    with torch.device("meta"):
        return AdaptVisLlavaForConditionalGeneration(config)


def count(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


@pytest.mark.parametrize(
    ("variant", "options"),
    [
        ("baseline", {}),
        ("normalize", {"normalize": True, "target_mean": 0.83, "max_norm": 1.22}),
        (
            "normalize-multilayer",
            {
                "normalize": True,
                "target_mean": 0.83,
                "max_norm": 1.22,
                "vision_feature_layer": [12, 16, 20, 24],
            },
        ),
    ],
)
def test_parameters_of_7b_are_those_of_the_real_model(variant, options):
    model = meta_model(**options)
    shapes = shapes_of(load_recipe(f"llava-1.5-7b-{variant}"))
    assert shapes.projector == count(model.model.multi_modal_projector)
    assert shapes.language_model == count(model.model.language_model, model.lm_head)
    assert shapes.layer == count(model.model.language_model.layers[0])
    # The tower has a last norm only where it is used; the plan counts it.
    assert shapes.vision_tower - count(model.model.vision_tower) in (0, 2 * 1024)


def test_adapters_are_counted_as_peft_makes_them():
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM

    recipe = override(load_recipe("llava-1.5-7b-baseline"), ["lora.rank=16"])
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=2))
        model = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear"))
    made = sum(p.numel() for n, p in model.named_parameters() if "lora_" in n)
    shapes = shapes_of(recipe)
    assert shapes.adapters == made // 2 * 32
    assert trained_parameters(recipe, recipe.stages[1], shapes) == (
        shapes.adapters + shapes.projector
    )


def test_activations_are_of_the_order_of_what_autograd_keeps(embedded):
    model = AutoModelForImageTextToText.from_pretrained(embedded, dtype=torch.float32)
    config = AutoConfig.from_pretrained(embedded).text_config
    ids = torch.randint(5, config.vocab_size, (8, 128))
    held: dict[int, int] = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(input_ids=ids, labels=ids).loss
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = sum(size for pointer, size in held.items() if pointer not in weights)
    assert torch.isfinite(loss)
    planned = activation_bytes(
        shapes_of(load_recipe("tiny-2ds-baseline"), 1),
        batch=8,
        tokens=128,
        width=4,
        checkpointing=False,
    )
    assert planned / 2 < kept < 2 * planned


def test_a_full_7b_fits_eight_gpus_when_sharded_and_never_one():
    recipe = load_recipe("llava-1.5-7b-normalize")
    shapes = shapes_of(recipe)

    def total(gpus, strategy):
        stage = recipe.stages[1]
        return plan(recipe, stage, shapes, gpus=gpus, strategy=strategy, checkpointing=True).total

    # Weights, gradients and two moments in float32: 16 bytes for each of 6.76e9.
    assert total(1, "FSDP") > 16 * 6.7e9
    assert total(8, "FSDP") < 80e9 < total(8, "DDP")
    assert total(8, "ZeRO-3") < total(8, "ZeRO-2") < 80e9
    assert total(16, "FSDP") < total(8, "FSDP")
