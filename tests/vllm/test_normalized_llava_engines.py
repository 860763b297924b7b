"""Normalize and Multilayer LLaVAs where they are used: several ranks, evaluation, a real server."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest
import torch
from openai import OpenAI
from vllm.engine.arg_utils import EngineArgs

import adaptvis
from adaptvis import AdaptVis, ScalingVis
from adaptvis.engine import Query
from adaptvis.errors import UnsupportedError
from adaptvis.hf.engine import HFEngine
from adaptvis.vllm import decisions
from adaptvis.vllm.engine import VLLMEngine
from adaptvis.vllm.plugin import DISABLE

from .engines import make_engine
from .server import ADAPTVIS_SERVE, Server
from .test_norms import Rescaled, llava_requests
from .tiny_normalized_llava import NORMALIZE, write_random_normalized_llava
from .workload import Request, Transformers, compare, picture

pytestmark = pytest.mark.filterwarnings("ignore:.*prompts were not steered")

TOLERANCE = 1e-4
WORDS = ("where", "is", "the", "red", "left", "of")
CONFIGS = [
    None,
    ScalingVis(alpha=1.8),
    AdaptVis(alpha_low=0.4, alpha_high=2.2, threshold=0.3),
    ScalingVis(alpha=1.8, rows="text_after_image"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    options = NORMALIZE | {"vision_feature_layer": [-1, 2], "compression": 16}
    return write_random_normalized_llava(tmp_path_factory.mktemp("models") / "model", **options)


@pytest.fixture(scope="module")
def reference(folder):
    return Transformers(folder)


def requests():
    prompts = [((0,), 1), ((1, 2), 4), ((3,), 6), ((), 3)]
    return [
        Request(images, WORDS[:count], config)
        for images, count in prompts
        for config in CONFIGS
        if config is None or config.rows != "text_after_image" or len(images) < 2
    ]


def test_two_tensor_parallel_ranks_equal_transformers(folder, reference, monkeypatch):
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    # Ranks are bound to memory nodes of their own, of which a small machine has one.
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")
    llm = make_engine(folder, tensor_parallel_size=2)
    try:
        asked = requests()
        outputs = llm.generate(
            [request.prompt() for request in asked],
            [request.sampling() for request in asked],
            use_tqdm=False,
        )
        taken = decisions(llm)
        for request, output in zip(asked, outputs, strict=True):
            expected = reference.answer(request)
            same, error = compare(expected, output)
            assert same, request
            assert error < TOLERANCE, request
            assert taken[output.request_id].alpha == pytest.approx(expected.alpha)
    finally:
        llm.llm_engine.engine_core.shutdown()


def test_norms_are_rescaled_behind_the_projector_as_in_transformers(folder, reference):
    rescaled = Rescaled(reference, folder)
    try:
        for config in (None, ScalingVis(alpha=2.0)):
            moved = rescaled.check(llava_requests(config))
            assert all(distance > TOLERANCE for distance in moved[:-1])
    finally:
        rescaled.close()


def test_both_engines_of_an_evaluation_answer_alike(folder):
    queries = [
        Query(f"Where is the {word} object?", [picture(index)])
        for index, word in enumerate(("red", "blue", "green"))
    ]
    expected = HFEngine.load(folder).answer(queries, CONFIGS, max_new_tokens=4)
    engine = VLLMEngine.load(folder, max_num_seqs=8)
    try:
        assert engine.describe()["model_type"] == "adaptvis_llava"
        found = engine.answer(queries, CONFIGS, max_new_tokens=4)
    finally:
        engine.close()
    for own, theirs in zip(chain(*found), chain(*expected), strict=True):
        assert own.text == theirs.text
        assert own.confidence == pytest.approx(theirs.confidence, abs=TOLERANCE)
        assert own.alpha == pytest.approx(theirs.alpha)
        assert own.applied == theirs.applied


def test_the_server_command_serves_and_steers_it(folder, reference, tmp_path):
    image = picture(0)
    content = io.BytesIO()
    image.save(content, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
    message = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "Where is the red object?"},
    ]
    pixels = reference.processor(text="<image>", images=[image], return_tensors="pt").pixel_values
    # Only to compare: served models are compiled, and in half precision.
    exact = ("--dtype", "float32", "--enforce-eager")
    with Server(
        *ADAPTVIS_SERVE, str(folder), "--alpha", "2", *exact, log=tmp_path / "log"
    ) as server:
        client = OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        for steering, config in (
            ({}, ScalingVis(alpha=2)),
            ({"adaptvis": "off"}, None),
            ({"adaptvis_alpha": 0.0}, ScalingVis(alpha=0)),
        ):
            answer = client.chat.completions.create(
                model=str(folder),
                messages=[{"role": "user", "content": message}],
                temperature=0,
                max_tokens=6,
                logprobs=True,
                extra_body={
                    "ignore_eos": True,
                    "return_token_ids": True,
                    "vllm_xargs": steering,
                },
            )
            prompt = torch.tensor([answer.model_extra["prompt_token_ids"]])
            assert (prompt == 4).sum() == 16
            with adaptvis.steer(reference.model, config, processor=reference.processor):
                expected = reference.model.generate(
                    input_ids=prompt,
                    attention_mask=torch.ones_like(prompt),
                    pixel_values=pixels,
                    max_new_tokens=6,
                    do_sample=False,
                    output_logits=True,
                    return_dict_in_generate=True,
                )
            (choice,) = answer.choices
            assert choice.model_extra["token_ids"] == expected.sequences[0, -6:].tolist()
            found = [entry.logprob for entry in choice.logprobs.content]
            want = [logits[0].log_softmax(-1).max().item() for logits in expected.logits]
            assert found == pytest.approx(want, abs=TOLERANCE)


def as_plain_llava(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text())
    config |= {"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"]}
    (to / "config.json").write_text(json.dumps(config))
    return to


def test_a_plain_llava_of_several_layers_is_refused_and_served_as_advised(tmp_path):
    advised = write_random_normalized_llava(tmp_path / "advised", vision_feature_layer=[3, 1])
    plain = as_plain_llava(advised, tmp_path / "plain")
    with pytest.raises(UnsupportedError, match=r"several.*\[3, 1\].*adaptvis_llava") as refused:
        make_engine(plain)
    assert "AdaptVisLlavaForConditionalGeneration" in str(refused.value)
    reference = Transformers(plain)
    assert reference.model.config.model_type == "llava"
    llm = make_engine(advised)
    request = Request((0,), WORDS, None)
    (output,) = llm.generate([request.prompt()], [request.sampling()], use_tqdm=False)
    same, error = compare(reference.answer(request), output)
    llm.llm_engine.engine_core.shutdown()
    assert same
    assert error < TOLERANCE


def test_a_plain_llava_of_one_layer_in_a_list_is_left_to_vllm(tmp_path):
    folder = write_random_normalized_llava(tmp_path / "own", vision_feature_layer=[-2])
    plain = as_plain_llava(folder, tmp_path / "plain")
    llm = make_engine(plain)
    request = Request((0,), WORDS, None)
    (output,) = llm.generate([request.prompt()], [request.sampling()], use_tqdm=False)
    same, error = compare(Transformers(plain).answer(request), output)
    llm.llm_engine.engine_core.shutdown()
    assert same
    assert error < TOLERANCE


def test_a_layer_that_the_tower_has_not_is_refused_before_anything_is_loaded(tmp_path):
    folder = write_random_normalized_llava(tmp_path / "model", vision_feature_layer=[1, 4])
    config = json.loads((folder / "config.json").read_text())
    config["vision_feature_layer"] = [1, 5]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(Exception, match="vision_feature_layer 5 is out of range"):
        EngineArgs(str(folder)).create_engine_config()


def test_with_the_kill_switch_vllm_does_not_know_the_model(folder):
    code = (
        "import sys; from vllm.engine.arg_utils import EngineArgs; "
        f"EngineArgs({str(folder)!r}).create_engine_config()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {DISABLE: "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "model type `adaptvis_llava`" in done.stderr
