"""The mean and largest norm of text embeddings, with rows that are no text left out."""

import pytest
import torch
from models.tiny_sources import hf, text_config
from torch import nn

from adaptvis.errors import CheckpointError
from adaptvis.models import measure_text_norms


def test_norms_of_a_table_are_those_computed_by_hand():
    table = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 2.0], [8.0, 6.0]])
    assert measure_text_norms(table) == (pytest.approx((5 + 2 + 10) / 3), 10.0)
    assert measure_text_norms(table, rows=3) == (pytest.approx(3.5), 5.0)
    assert measure_text_norms(table, ignored=[3]) == (pytest.approx(3.5), 5.0)


def test_a_model_s_own_image_and_pad_tokens_do_not_count():
    config = text_config(pad_token_id=5)
    config.image_token_id = 7
    model = hf.LlamaForCausalLM(config)
    with torch.no_grad():
        model.get_input_embeddings().weight[5] = 100.0
        model.get_input_embeddings().weight[7] = 100.0
    table = model.get_input_embeddings().weight.detach().double()
    kept = [i for i in range(len(table)) if i not in (5, 7)]
    norms = table[kept].square().sum(1).sqrt()
    mean, largest = measure_text_norms(model)
    assert mean == pytest.approx(float(norms.mean()), rel=1e-6)
    assert largest == pytest.approx(float(norms.max()), rel=1e-6)


def test_a_scale_inside_the_embedding_counts():
    class Scaled(nn.Embedding):
        def forward(self, ids):
            return 3.0 * super().forward(ids)

    module = Scaled.from_pretrained(torch.eye(4))
    assert measure_text_norms(module) == (pytest.approx(3.0), pytest.approx(3.0))


@pytest.mark.parametrize("table", [torch.zeros(3, 2), torch.tensor([[1.0, torch.nan]])])
def test_a_table_without_norms_is_refused(table):
    with pytest.raises(CheckpointError, match="no finite norms"):
        measure_text_norms(table)
