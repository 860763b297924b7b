"""Bad arguments of image attention, and what good ones launch; nothing runs."""

from typing import Any

import pytest
import torch
from adaptvis_kernels.launching import record_launches
from adaptvis_kernels.ops.image_attention import image_attention
from adaptvis_kernels.ops.image_attention.cost import cost


def new(*shape: int, dtype: torch.dtype = torch.float32, device: str = "meta") -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device=device)


def arguments(**changes: Any) -> dict[str, Any]:
    """B = 2, H = 4, G = 2, R = 3, N = 50, D = 64, M = 7."""
    good = {
        "query": new(2, 4, 3, 64),
        "key": new(2, 2, 50, 64),
        "image_positions": new(2, 7, dtype=torch.int32),
    }
    return good | changes


BAD = [
    ({"query": new(4, 3, 64)}, r"query must have shape \[B, H, R, D\], got \[4, 3, 64\]"),
    ({"query": new(2, 5, 3, 64)}, "query heads must be a multiple of the 2 key heads, got 5"),
    (
        {"query": new(2, 4, 3, 300), "key": new(2, 2, 50, 300)},
        "head size must be 1 to 256, got 300",
    ),
    ({"query": new(2, 4, 3, 64, dtype=torch.float64)}, "query must have dtype float32 or"),
    ({"key": new(2, 2, 50, 64, dtype=torch.float16)}, "key must have dtype float32, got float16"),
    ({"key": new(1, 2, 50, 64)}, r"key must have shape \[2, G, N, 64\], got \[1, 2, 50, 64\]"),
    ({"key": new(2, 0, 50, 64)}, "query heads must be a multiple of the 0 key heads"),
    ({"key": new(2, 2, 2, 64)}, "the rows are the last of the 2 tokens, got 3 rows"),
    ({"image_positions": new(3, 7, dtype=torch.int32)}, "image_positions must have shape"),
    ({"image_positions": new(2, 7, dtype=torch.bool)}, "image_positions must have dtype int32 or"),
    ({"row_positions": new(2, 4, dtype=torch.int32)}, "row_positions must have shape"),
    ({"row_positions": new(2, 3)}, "row_positions must have dtype int32 or int64, got float32"),
    ({"first_columns": new(3, dtype=torch.int32)}, "first_columns must have shape"),
    ({"first_columns": new(2, dtype=torch.int64)}, "first_columns must have dtype int32"),
    ({"visible": new(2, 3, 49, dtype=torch.bool)}, r"visible must have shape \[2, 3, 50\]"),
    ({"visible": new(2, 4, 3, 50, dtype=torch.bool)}, r"visible must have shape \[2, 1, 3, 50\]"),
    ({"visible": new(2, 3, 50)}, "visible must have dtype bool, got float32"),
    ({"visible": new(2, 3, 50, dtype=torch.bool), "window": 4}, "visible replaces row_positions"),
    ({"window": 0}, "window must be positive, got 0"),
    ({"softcap": -1.0}, "softcap must be a number that is finite and above 0.*, got -1.0"),
    ({"softcap": 1e39}, "softcap must be a number that is finite and above 0 in float32"),
    ({"scaling": float("nan")}, "scaling must be a number that is finite in float32, got nan"),
    ({"query": new(2, 4, 3, 64).requires_grad_()}, "has no backward pass .* got query that"),
    ({"row_alpha": new(2, 3).requires_grad_()}, "got row_alpha that requires one"),
    ({"row_alpha": new(2, 4)}, "row_alpha must have shape"),
    ({"row_alpha": new(2, 3, dtype=torch.float16)}, "row_alpha must have dtype float32"),
    ({"heads": new(2, dtype=torch.bool)}, r"heads must have shape \[4\], got \[2\]"),
    ({"heads": new(4)}, "heads must have dtype bool, got float32"),
    ({"key": new(2, 2, 50, 64, device="cpu")}, "key must be on the device of query, meta, got cpu"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_bad_arguments_are_named_before_anything_is_launched(
    changes: dict[str, Any], message: str
) -> None:
    with record_launches("sm_90") as launches, pytest.raises(ValueError, match=message):
        image_attention(**arguments(**changes))
    assert not launches


def test_tensors_on_no_device_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match="query must be on a CUDA or ROCm device, got meta"):
        image_attention(**arguments())


@pytest.mark.parametrize("architecture", ["sm_80", "sm_89", "sm_100", "gfx942", "sm_86"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 30, 300])
@pytest.mark.parametrize("size", [1, 32, 64, 80, 96, 128, 256])
def test_every_head_size_and_row_count_has_a_configuration(
    architecture: str, dtype: torch.dtype, rows: int, size: int
) -> None:
    with record_launches(architecture) as launches:
        image_attention(
            new(1, 2, rows, size, dtype=dtype),
            new(1, 1, 1000, size, dtype=dtype),
            image_positions=new(1, 10, dtype=torch.int64),
        )
    names = [launch.kernel.__name__ for launch in launches]
    assert names == ["image_slots", "image_logits", "image_finish"]


def test_a_single_row_is_split_over_many_programs_and_short_contexts_are_not() -> None:
    def programs(width: int) -> int:
        with record_launches("sm_90") as launches:
            image_attention(
                new(1, 32, 1, 128, dtype=torch.bfloat16),
                new(1, 32, width, 128, dtype=torch.bfloat16),
                image_positions=new(1, 576, dtype=torch.int32),
            )
        return launches[1].grid[0]

    assert programs(32768) >= 2 * 108
    assert programs(100) == 32


def test_rows_and_heads_of_a_group_share_one_pass_over_the_keys() -> None:
    with record_launches("sm_90") as launches:
        image_attention(
            new(1, 32, 4, 128, dtype=torch.bfloat16),
            new(1, 1, 64, 128, dtype=torch.bfloat16),
            image_positions=new(1, 5, dtype=torch.int32),
        )
    assert launches[1].arguments["row_tiles"] == 1


def test_cost_counts_keys_once_and_weights_once() -> None:
    shapes = {"batch": 2, "query_heads": 8, "key_heads": 2, "rows": 3, "columns": 100}
    moved, operations = cost(**shapes, image_tokens=10, head_size=64, element_size=2)
    keys, queries = 2 * 2 * 100 * 64 * 2, 2 * 8 * 3 * 64 * 2
    results, positions = 4 * 2 * 8 * 3 * (10 + 3), 4 * 2 * 10
    assert moved == keys + queries + results + positions
    assert operations == 2 * 2 * 8 * 3 * 100 * 64
    masked, _ = cost(**shapes, image_tokens=10, head_size=64, element_size=2, explicit_mask=True)
    assert masked - moved == 2 * 3 * 100
