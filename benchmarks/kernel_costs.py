"""What each kernel must move and compute at three models' shapes, as the table in kernels/COSTS.md.

python benchmarks/kernel_costs.py            prints the table
python benchmarks/kernel_costs.py --write    puts it into the page
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from kernel_bench.shapes import BYTES, MODELS, Model

PAGE = Path(__file__).parents[1] / "kernels" / "COSTS.md"
CONTEXT = 640
TAIL = 40
# Vectors and vocabularies are computed in float32 outside the tensor cores, products within them.
VECTOR, TENSOR = 20, 295


def _cost(op: str, *args: int, **kwargs: int | bool | None) -> tuple[int, int]:
    cost: tuple[int, int] = import_module(f"adaptvis_kernels.ops.{op}.cost").cost(*args, **kwargs)
    return cost


def _decode(model: Model, batch: int, rows: int, columns: int) -> tuple[int, int]:
    return _cost(
        "steered_paged_decode",
        batch=batch,
        rows=rows,
        heads=model.heads,
        groups=model.groups,
        head_size=model.head_size,
        columns=columns,
        element_size=BYTES,
    )


def rows(model: Model) -> Iterator[tuple[str, str, tuple[int, int], int]]:
    """Kernel, call, (bytes, operations), and the operations per byte at which a GPU balances."""
    attention = (model.heads, model.groups)
    decode = "steered_paged_decode"
    yield decode, f"1 row, context {CONTEXT}", _decode(model, 1, 1, CONTEXT), TENSOR
    yield decode, f"{TAIL} rows, context {CONTEXT}", _decode(model, 1, TAIL, CONTEXT), TENSOR
    yield decode, "1 row, context 32768", _decode(model, 1, 1, 32768), TENSOR
    for columns in (CONTEXT, 4096):
        moved = _cost("steered_prefill", 1, *attention, columns, columns, model.head_size, BYTES)
        yield "steered_prefill", f"{columns} tokens, causal", moved, TENSOR
    yield (
        "select_alpha",
        f"1 row of {model.vocabulary} logits",
        _cost("select_alpha", 1, model.vocabulary, element_size=BYTES),
        VECTOR,
    )
    vectors = f"{model.image_tokens} vectors of {model.hidden}"
    shape = (model.image_tokens, model.hidden)
    yield "rescale_norms", vectors, _cost("rescale_norms", *shape), VECTOR
    for backward in (False, True):
        moved = _cost("rescale_norms", *shape, normalize=True, backward=backward)
        direction = ", backward" if backward else ""
        yield "normalize_projection", vectors + direction, moved, VECTOR
    moved = _cost(
        "image_attention",
        batch=1,
        query_heads=model.heads,
        key_heads=model.groups,
        rows=1,
        columns=CONTEXT,
        image_tokens=model.image_tokens,
        head_size=model.head_size,
        element_size=BYTES,
    )
    yield "image_attention", f"1 row, context {CONTEXT}", moved, TENSOR


def table() -> str:
    lines = [
        "| model | kernel | one request, one layer | bytes | operations | per byte | bound by |",
        "|---|---|---|---|---|---|---|",
    ]
    for model in MODELS.values():
        for kernel, call, (moved, operations), balance in rows(model):
            ratio = operations / moved
            bound = "memory" if ratio < balance else "arithmetic"
            lines.append(
                f"| {model.name} | `{kernel}` | {call} | {moved / 1e6:.2f} MB "
                f"| {operations / 1e6:.1f} M | {ratio:.1f} | {bound} |"
            )
    return "\n".join(lines)


def with_table(page: str) -> str:
    """The page with its table replaced by the current one."""
    block = f"<!-- table -->\n{table()}\n<!-- end table -->"
    return re.sub(r"<!-- table -->.*?<!-- end table -->", lambda _: block, page, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"replace the table in {PAGE.name}")
    if parser.parse_args().write:
        PAGE.write_text(with_table(PAGE.read_text()))
    else:
        print(table())


if __name__ == "__main__":
    main()
