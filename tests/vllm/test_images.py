"""Images of a request are vLLM's pictures, however many runs of tokens each becomes."""

import numpy as np
import torch
from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange

from adaptvis.vllm.images import image_columns, image_runs


def feature(modality, offset, is_embed):
    return MultiModalFeatureSpec(
        data=None,
        modality=modality,
        identifier=str(offset),
        mm_position=PlaceholderRange(offset, len(is_embed), torch.tensor(is_embed).bool()),
    )


def test_a_picture_with_crops_between_words_is_one_image():
    # Pan and scan: the picture, words, two crops; then a whole picture right behind.
    cut = [0, 1, 1, 0, 0, 0, 1, 1, 0, 1, 1]
    features = [feature("image", 2, cut), feature("image", 13, [1, 1]), feature("video", 16, [1])]
    runs = image_runs(features)
    assert runs == [[(3, 5), (8, 10), (11, 13)], [(13, 15)]]
    first, second = np.zeros(20, bool), np.zeros(20, bool)
    first[[3, 4, 8, 9, 11, 12]] = True
    second[13:15] = True
    assert np.array_equal(image_columns(runs, (0,), 20), first)
    assert np.array_equal(image_columns(runs, (1,), 20), second)
    assert np.array_equal(image_columns(runs, None, 20), first | second)
