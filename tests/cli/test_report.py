"""`adaptvis report` on the folder of a real run."""

import json
import webbrowser
from pathlib import Path

import pytest
from cli.conftest import Adaptvis, assert_one_sentence
from tasks.published import picture, write_jsonl

from adaptvis.attention_map import read_attention_maps
from adaptvis.cli.models import load_engine
from adaptvis.cli.report_attention import attention_of_examples
from adaptvis.config import ScalingVis
from adaptvis.evaluation import Record, read_records
from adaptvis.evaluation.report import Reopened, changed_answers, write_attention

ALPHA = ScalingVis(alpha=40)


@pytest.fixture
def run(adaptvis: Adaptvis, model_folder: Path) -> Path:
    """Random weights and a strong alpha: some answers change."""
    result = adaptvis(
        *("eval", "-m", model_folder, "-t", "2ds", "--limit", 40, "-o", "out"),
        *("--method", "baseline", "--method", ALPHA.to_json()),
    )
    assert result.code == 0, result.err
    # Random weights are hardly ever right, so every other answer is called so.
    path = Path("out/records.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for number, line in enumerate(lines):
        line["correct"] = number % 4 in (1, 2)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Path("out")


def examples_in(folder: Path) -> list[dict[str, object]]:
    page = (folder / "report.html").read_text()
    data = page.split('<script type="application/json" id="data">')[1].split("</script>")[0]
    found = json.loads(data)["examples"]
    assert isinstance(found, list)
    return found


def test_report_is_written_again_from_the_folder(
    adaptvis: Adaptvis, run: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) or True)
    result = adaptvis("report", run, "--open", "--examples", 3)
    assert result.code == 0, result.err
    assert "Written to out/report.html" in result.out
    assert opened == [(run / "report.html").resolve().as_uri()]
    examples = examples_in(run)
    assert len(examples) == 6
    assert all(e["pictures"] and not e["note"] and e["attention"] is None for e in examples)
    before = (run / "report.html").read_bytes()
    assert adaptvis("report", run, "--examples", 3).code == 0
    assert (run / "report.html").read_bytes() == before

    # With attention maps in the folder the pictures get their overlays.
    configuration = json.loads((run / "run.json").read_text())
    (model,) = configuration["models"]
    maps = attention_of_examples(
        changed_answers(read_records(run / "records.jsonl"), 3),
        {(model["name"], model["methods"][1]["name"]): ALPHA},
        Reopened(configuration).sample,
        lambda _: load_engine(
            str(model_folder), engine="hf", dtype="auto", trust_remote_code=False
        ),
    )
    write_attention(run, maps)
    assert len(read_attention_maps(run / "attention.safetensors")) == 6
    assert adaptvis("report", run, "--examples", 3).code == 0
    for example in examples_in(run):
        attention = example["attention"]
        assert isinstance(attention, dict)
        assert attention["layers"] == 4
        assert attention["unsteered"]["shares"] != attention["steered"]["shares"]


def test_pictures_of_published_files_are_reopened_where_they_are(
    adaptvis: Adaptvis, model_folder: Path, tmp_path: Path
) -> None:
    # Twelve images with two questions each; without --data the task has none.
    rows = [
        {
            "question_id": number,
            "image": f"COCO_val2014_{number // 2:012d}.jpg",
            "text": f"Is there a {'cat' if number % 2 else 'dog'} in the image?",
            "label": "yes" if number % 2 else "no",
        }
        for number in range(24)
    ]
    write_jsonl(tmp_path / "pope/coco_pope_popular.json", rows)
    for number in range(12):
        picture(tmp_path / f"pope/val2014/COCO_val2014_{number:012d}.jpg")
    result = adaptvis(
        *("eval", "-m", model_folder, "-t", "pope-popular", "--data", "pope", "-o", "out"),
        *("--split", "grouped", "--no-attention"),
        *("--method", "baseline", "--method", ALPHA.to_json()),
    )
    assert result.code == 0, result.err
    path = Path("out/records.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for number, line in enumerate(lines):
        line["correct"] = number % 4 in (1, 2)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    shown = []
    for command in (("report", "out"), ("report", "out", "-t", "pope-popular")):
        assert adaptvis(*command).code == 0
        shown.append(examples_in(Path("out")))
    assert shown[0]
    assert shown[0] == shown[1]
    assert all(e["pictures"] and not e["note"] for e in shown[0])

    Path("pope").rename("moved")
    assert adaptvis("report", "out").code == 0
    assert all(not e["pictures"] and "pope" in str(e["note"]) for e in examples_in(Path("out")))
    assert adaptvis("report", "out", "--data", "moved").code == 0
    assert examples_in(Path("out")) == shown[0]


def test_what_is_missing_is_said(adaptvis: Adaptvis, run: Path, tmp_path: Path) -> None:
    assert_one_sentence(adaptvis("report", tmp_path / "nowhere"), "not the folder of a run")
    configuration = json.loads((run / "run.json").read_text())
    configuration["tasks"][0]["source"] = "other data"
    (run / "run.json").write_text(json.dumps(configuration))
    assert adaptvis("report", run).code == 0
    note = str(examples_in(run)[0]["note"])
    assert "the data of task '2ds' is not what the run was asked with" in note
    configuration["tasks"][0] = {"name": "mine", "source": "mine.jsonl sha256:0"}
    reopened = Reopened(configuration)
    record = Record.from_line((run / "records.jsonl").read_text().splitlines()[0])
    with pytest.raises(ValueError, match="name its file with --task"):
        reopened.sample("mine", record.id)
    (run / "summary.json").unlink()
    assert_one_sentence(adaptvis("report", run), "finish the run with adaptvis eval --resume")
    (run / "run.json").write_text("[]")
    assert_one_sentence(adaptvis("report", run), "must hold an object")
