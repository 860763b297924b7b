"""The tutorial in examples/normalized_checkpoint: its own commands, run in order."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
from examples.tutorial import FOLDER, commands, python_blocks, run, shortened
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

from adaptvis.cli.models import embedded_models

EMBEDDED = embedded_models()["tiny-2ds-seed0"]
PAD, IMAGE = 0, 4
# Of these the tests in tests/vllm take care.
SERVING = ("serve", "examples/serve_client.py")


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The folder in which the tutorial was followed, and what each command printed."""
    folder = tmp_path_factory.mktemp("repository")
    (folder / "examples").symlink_to(FOLDER.parent)
    printed = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for words in [*commands(1), *commands(3)]:
            if words[1] not in SERVING:
                printed[" ".join(words)] = run(shortened(words))
        for source in python_blocks():
            with redirect_stdout(io.StringIO()) as said:
                exec(compile(source, "README.md", "exec"), {})
            printed["python"] = said.getvalue()
    return folder / "tutorial", printed


def test_the_base_language_model_is_the_embedded_ones_without_the_image_token(followed) -> None:
    folder, _ = followed
    llava = AutoModelForImageTextToText.from_pretrained(EMBEDDED)
    model = AutoModelForCausalLM.from_pretrained(folder / "language-model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "language-model")
    assert "<image>" not in tokenizer.get_vocab()
    text = "USER: Where is the red object? ASSISTANT:"
    ids = AutoTokenizer.from_pretrained(EMBEDDED)(text, return_tensors="pt")["input_ids"]
    own = tokenizer(text, return_tensors="pt")["input_ids"]
    assert torch.equal(own, ids - (ids > IMAGE).long())
    with torch.no_grad():
        expected, found = llava(input_ids=ids).logits, model(input_ids=own).logits
    kept = [token for token in range(expected.shape[-1]) if token != IMAGE]
    torch.testing.assert_close(found, expected[..., kept], rtol=0, atol=0)


def test_the_norms_of_text_are_those_that_the_page_shows_and_training_measures(followed) -> None:
    folder, printed = followed
    table = load_file(EMBEDDED / "model.safetensors")["language_model.model.embed_tokens.weight"]
    norms = [
        math.sqrt(sum(x * x for x in row))
        for token, row in enumerate(table.double().tolist())
        if token not in (PAD, IMAGE)
    ]
    mean, largest = sum(norms) / len(norms), max(norms)
    assert printed["python"].strip() == f"mean {mean:.3f}, largest {largest:.3f}"
    assert printed["python"] in (FOLDER / "README.md").read_text()
    config = json.loads((folder / "normalized/config.json").read_text())
    assert config["target_mean"] == pytest.approx(mean, rel=1e-6)
    assert config["max_norm"] == pytest.approx(largest, rel=1e-6)


def test_image_tokens_of_the_trained_model_are_as_long_as_text(followed) -> None:
    folder, _ = followed
    before, after = (
        json.loads((folder / name / "norms.json").read_text())["summary"]
        for name in ("norms-before", "norms")
    )
    config = json.loads((folder / "normalized/config.json").read_text())
    target, bound = config["target_mean"], config["target_mean"] * config["max_norm"]
    # The norm's weights start at 1 / sqrt(D); Adam's two steps at 2e-3 and two at 5e-4 move each of
    # them by no more than 5e-3.
    moved = 5e-3 * math.sqrt(config["text_config"]["hidden_size"])
    image = after["image tokens"]
    for name in ("smallest", "mean", "largest"):
        assert image[name] == pytest.approx(target, rel=moved), name
    assert image["largest"] <= bound
    assert before["image tokens"]["mean"] > 10 * before["embedding table"]["mean"]


def test_the_result_is_evaluated_unsteered_and_steered_without_another_option(followed) -> None:
    folder, _ = followed
    records = [json.loads(line) for line in (folder / "results/records.jsonl").open()]
    by_method = {
        method: {r["applied"] for r in records if r["method"] == method}
        for method in ("baseline", "scalingvis", "adaptvis")
    }
    assert by_method == {"baseline": {False}, "scalingvis": {True}, "adaptvis": {True}}
    assert len(records) == 3 * 24
    assert (folder / "results/report.html").is_file()


def test_the_doctor_says_that_the_result_would_be_steered(followed) -> None:
    _, printed = followed
    (said,) = (text for command, text in printed.items() if "doctor" in command)
    assert "would be steered: family adaptvis_llava, 4 layers" in said


def test_export_to_the_original_layout_and_back_changes_no_bit(followed) -> None:
    folder, _ = followed
    settings = json.loads((folder / "original/config.json").read_text())
    assert (settings["model_type"], settings["normalize_projector"]) == ("llava_llama", True)
    trained, back = (
        load_file(folder / name / "model.safetensors") for name in ("published-norms", "back")
    )
    assert trained.keys() == back.keys()
    assert all(
        torch.equal(trained[name].view(torch.uint8), back[name].view(torch.uint8))
        for name in trained
    )


def options(words: list[str]) -> list[str]:
    return [word for word in words if word.startswith("-")]


def test_for_7b_only_names_change() -> None:
    dry, launched, *rest = commands(2)
    place = launched.index("-m") + 1
    launcher, train = launched[:place], launched[place:]
    assert launcher[0] == "accelerate"
    assert shutil.which("accelerate", path=Path(sys.executable).parent) is not None
    assert (FOLDER.parents[1] / launcher[launcher.index("--config_file") + 1]).is_file()
    small = [w for w in commands(1) if not w[1].endswith(("bases.py", "data.py"))]
    assert [words[:2] for words in (train, *rest)] == [
        ["adaptvis", "serve"] if words[1] == "serve" else words[:2] for words in small
    ]
    assert [options(words) for words in (train, *rest)] == [options(words) for words in small]
    # The whole command of 7B is one that the memory plan takes, with the page's base and data.
    assert "7,062.9 M parameters" in run([*train, *dry[dry.index("--dry-run") :]])
    assert train[train.index("--output") + 1] == rest[-2][2] == "llava-7b/normalized"


def test_every_block_of_the_page_is_of_a_kind_that_is_run() -> None:
    fences = re.findall(r"^```.*$", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert set(fences[0::2]) == {"```sh", "```python"}
    assert set(fences[1::2]) == {"```"}
