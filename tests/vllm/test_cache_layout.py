"""Where the layouts say that keys and values are."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from adaptvis.errors import UnsupportedError
from adaptvis.vllm.cache_layout import blocks_of, check_layout, layout_name

BLOCKS, GROUPS, BLOCK_SIZE, SIZE = 3, 2, 32, 64


def offsets(layout, token, dim):
    """Offsets of one element of keys and values within a block and head, as documented."""
    if layout == "amx":
        key = (token // 16) * 16 * SIZE + (dim // 2) * 32 + (token % 16) * 2 + dim % 2
        value = (dim // 16) * BLOCK_SIZE * 16 + (token // 2) * 32 + (dim % 16) * 2 + token % 2
        return key, value
    return dim * BLOCK_SIZE + token, token * SIZE + dim


def write(layout):
    """A writer that puts every element where the layout's formula says."""

    def update(layer, keys, values, cache, slots):
        flat = cache.view(BLOCKS, GROUPS, 2, BLOCK_SIZE * SIZE)
        dims = range(SIZE)
        for token, slot in enumerate(slots.tolist()):
            places = [offsets(layout, slot % BLOCK_SIZE, dim) for dim in dims]
            key_places, value_places = (list(place) for place in zip(*places, strict=True))
            flat[slot // BLOCK_SIZE, :, 0, key_places] = keys[token]
            flat[slot // BLOCK_SIZE, :, 1, value_places] = values[token]

    return update


def layer(backend="CPU_ATTN", isa=None):
    return SimpleNamespace(attn_backend=SimpleNamespace(get_name=lambda: backend), isa=isa)


def cache():
    return torch.zeros(BLOCKS + 2, GROUPS, BLOCK_SIZE, 2 * SIZE)


@pytest.mark.parametrize("layout", ["vec", "vec16", "amx"])
def test_elements_lie_where_the_formula_says(layout) -> None:
    check_layout(layer(), cache(), layout, write(layout))


def test_a_cache_of_one_block_is_checked_beside_it() -> None:
    small = torch.full((1, GROUPS, BLOCK_SIZE, 2 * SIZE), 7.0)
    check_layout(layer(), small, "vec", write("vec"))
    assert (small == 7).all()


@pytest.mark.parametrize(
    ("written", "read"), [("vec", "amx"), ("amx", "vec"), ("vec", "head-major")]
)
def test_another_layout_is_refused(written, read) -> None:
    with pytest.raises(UnsupportedError, match="does not find keys"):
        check_layout(layer(), cache(), read, write(written))


def test_head_major_is_a_view_of_the_cache() -> None:
    def update(layer, keys, values, cache, slots):
        for token, slot in enumerate(slots.tolist()):
            block, offset = divmod(slot, BLOCK_SIZE)
            cache[block, :, offset, :SIZE] = keys[token]
            cache[block, :, offset, SIZE:] = values[token]

    check_layout(layer("FLASH_ATTN"), cache(), "head-major", update)
    full = cache()
    table = torch.zeros(1, 2, dtype=torch.int32)
    keys, values, same = blocks_of(full, table, "head-major")
    assert keys.shape == values.shape == (BLOCKS + 2, BLOCK_SIZE, GROUPS, SIZE)
    assert keys.data_ptr() == full.data_ptr()
    assert same is table


def test_only_known_backends_have_a_layout() -> None:
    for known in ("FLASH_ATTN", "TRITON_ATTN", "FLASHINFER"):
        assert layout_name(layer(known)) == "head-major"
    assert layout_name(layer(isa="vec16")) == "vec16"
    for unknown in (layer("FLEX_ATTENTION"), layer(isa="neon"), layer()):
        with pytest.raises(UnsupportedError, match="ADAPTVIS_DISABLE=1"):
            layout_name(unknown)
