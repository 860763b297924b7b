"""Attention at chosen rows against full matrices of transformers' eager attention."""

import math

import numpy as np
import pytest
import torch
from diagnostics.helpers import TinyEngine, full_matrices, query
from hf.helpers import FAMILIES

from adaptvis.diagnostics.attention.capture import attend
from adaptvis.diagnostics.attention.parts import LAST_ROW, TEXT_ROWS

WORDS = ("left", "red")


def by_hand(matrix: torch.Tensor, row: int, ids: list[int], placeholder: int):
    """Per head (entropy, system, text, image) of one row of a full matrix, by plain loops."""
    first = ids.index(placeholder)
    found = []
    for weights in matrix[:, row].double().tolist():
        system = sum(weights[:first])
        image = [w for w, i in zip(weights, ids, strict=True) if i == placeholder]
        text = sum(w for w, i in zip(weights[first:], ids[first:], strict=True) if i != placeholder)
        seen = [w for w in image if w > 0]
        total = sum(seen)
        entropy = math.nan
        if len(seen) > 1:
            entropy = -sum(w / total * math.log(w / total) for w in seen) / math.log(len(seen))
        found.append((entropy, system, text, total))
    return np.array(found).T


@pytest.mark.parametrize("family", [*FAMILIES, "adaptvis_llava"])
def test_rows_equal_full_matrices(family) -> None:
    engine = TinyEngine(family)
    inputs = engine.encode([query()])
    ids = inputs["input_ids"][0].tolist()
    placeholder = engine.model.config.image_token_id
    matrices = full_matrices(engine, inputs)
    found, same = attend(engine, query(), words=WORDS)
    assert same is found
    assert list(found.rows) == [LAST_ROW, TEXT_ROWS, *WORDS]
    assert found.entropy.shape == (len(matrices), 4, matrices[0].shape[0])
    vocabulary = engine.processor.tokenizer.convert_ids_to_tokens(ids)
    rows = [len(ids) - 1, vocabulary.index("left"), vocabulary.index("red")]
    columns = [i for i, token in enumerate(ids) if token == placeholder]
    assert found.tokens[2] == len(columns)
    assert sum(found.tokens) == len(ids)
    first = ids.index(placeholder)
    text_rows = [n for n in range(first, len(ids)) if ids[n] != placeholder]
    for layer, matrix in enumerate(matrices):
        matrix = torch.cat([matrix, matrix[:, text_rows].mean(dim=1, keepdim=True)], dim=1)
        for index, row in enumerate([rows[0], -1, *rows[1:]]):
            wanted = by_hand(matrix, row, ids, placeholder)
            for name, values in zip(("entropy", "system", "text", "image"), wanted, strict=True):
                np.testing.assert_allclose(
                    getattr(found, name)[layer, index], values, atol=1e-5, err_msg=name
                )
            np.testing.assert_allclose(
                found.weights[layer, index], matrix[:, row, columns].mean(dim=0), atol=1e-5
            )
