"""Two of What'sUp's photographs become one with three objects."""

import numpy as np
import pytest
from PIL import Image

from adaptvis.errors import DataError
from adaptvis.tasks.whatsup_merge import merged_items, side_for


@pytest.fixture
def folder(tmp_path):
    """Real names and layout; each photograph is one colour, so that halves can be told apart."""
    names = [
        "beer-bottle_left_of_armchair.jpeg",
        "mug_right_of_armchair.jpeg",
        "beer-bottle_right_of_armchair.jpeg",
        "book_left_of_chair.jpeg",
        "mug_right_of_chair.jpeg",
        "mug_on_chair.jpeg",
        "book_left_of_sofa.jpeg",
        "notes.txt",
    ]
    for index, name in enumerate(names[:-1]):
        Image.new("RGB", (120, 80), (30 * index, 100, 100)).save(tmp_path / name, quality=95)
    (tmp_path / names[-1]).write_text("mug_left_of_chair")
    return tmp_path


def test_left_and_right_halves_are_put_side_by_side(folder):
    items = merged_items(folder)
    assert [(i.left, i.middle, i.right, i.direction) for i in items] == [
        ("book", "chair", "mug", "left"),
        ("book", "chair", "mug", "right"),
        ("beer bottle", "armchair", "mug", "left"),
        ("beer bottle", "armchair", "mug", "right"),
    ]
    assert items[0].prompt == "The object on the floor to the left of the chair is a(n) "
    assert items[1].prompt == "The object on the floor to the right of the chair is a(n) "
    assert [i.answer for i in items[:2]] == ["book", "mug"]
    assert [i.other_end for i in items[:2]] == ["mug", "book"]
    pixels = np.asarray(items[0].image(side=336)).astype(int)
    assert pixels.shape == (336, 336, 3)
    assert np.abs(pixels[:, :164] - (90, 100, 100)).max() <= 3
    assert np.abs(pixels[:, 172:] - (120, 100, 100)).max() <= 3


def test_only_names_that_can_be_answers_are_asked(folder):
    items = merged_items(folder, is_known=lambda name: " " not in name)
    assert {i.left for i in items} == {"book"}
    assert [side_for(t) for t in ("qwen2_vl", "gemma3", "pixtral")] == [336, 896, 512]


def test_folders_without_such_photographs_are_refused(tmp_path, folder):
    with pytest.raises(DataError, match="is not a folder"):
        merged_items(tmp_path / "missing")
    with pytest.raises(DataError, match="holds no photographs to merge"):
        merged_items(folder, is_known=lambda name: False)


def test_a_link_out_of_the_folder_is_not_followed(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("elsewhere") / "secret.jpeg"
    Image.new("RGB", (8, 8)).save(outside)
    (folder / "vase_left_of_table.jpeg").symlink_to(outside)
    with pytest.raises(DataError, match="lies outside the folder"):
        merged_items(folder)
