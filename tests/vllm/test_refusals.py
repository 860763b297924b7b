"""What is not supported is refused with its reason; the plugin can be switched off."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from types import SimpleNamespace

import pytest
from vllm import PoolingParams, SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.entrypoints.launchers import app as launcher
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.exceptions import VLLMValidationError
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.core import EngineCore
from vllm.v1.worker.worker_base import WorkerWrapperBase

from adaptvis import AdaptVis, ScalingVis
from adaptvis.errors import ConfigError, UnsupportedError
from adaptvis.vllm import plugin, support
from adaptvis.vllm.engine_guard import check_front_end
from adaptvis.vllm.front_end import _policy, _read, ticket_for
from adaptvis.vllm.known_versions import Verdict
from adaptvis.vllm.parameters import Ticket
from adaptvis.vllm.versions.v0_26 import _with_middleware
from adaptvis.vllm.versions.v0_32 import V0_32

from .tiny_llava import write_random_llava

STEERING = {"adaptvis": {"method": "scalingvis", "alpha": 1.5}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_random_llava(tmp_path_factory.mktemp("models") / "llava")


@pytest.fixture
def plugin_log(caplog, monkeypatch):
    # vLLM's loggers do not propagate, and other tests may have silenced them.
    logger = logging.getLogger("vllm.adaptvis")
    monkeypatch.setattr(logger, "disabled", False)
    monkeypatch.setattr(logger, "level", logging.WARNING)
    monkeypatch.setattr(logger, "_cache", {})
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def engine_config(folder, **options):
    return EngineArgs(
        str(folder), max_model_len=128, dtype="float32", **options
    ).create_engine_config()


def test_the_tested_engine_is_supported(folder) -> None:
    assert support.unsupported(engine_config(folder)) == ""


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"pipeline_parallel_size": 2}, "pipeline parallelism"),
        ({"data_parallel_size": 2}, "data parallelism"),
        ({"kv_cache_dtype": "fp8"}, "fp8"),
        ({"enable_lora": True}, "LoRA"),
        (
            {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2}},
            "speculative decoding",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_unsupported_modes_name_themselves(folder, options, reason) -> None:
    config = engine_config(folder, **options)
    assert reason in support.unsupported(config)
    # Without a default the engine starts, and requests that ask are refused.
    assert reason in _policy(config).unsupported
    config.additional_config = STEERING
    with pytest.raises(UnsupportedError, match=reason):
        _policy(config)


def test_a_model_without_images_is_refused(folder, tmp_path) -> None:
    config = json.loads((folder / "config.json").read_text())["text_config"]
    config["architectures"] = ["LlamaForCausalLM"]
    text = tmp_path / "text"
    text.mkdir()
    (text / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (text / name).write_text((folder / name).read_text())
    assert "takes no images" in support.unsupported(engine_config(text))


def test_a_family_that_was_not_tested_needs_a_word(folder, monkeypatch) -> None:
    config = engine_config(folder)
    config.model_config.hf_config.model_type = "molmo"
    for no in ("", "0", "false"):
        monkeypatch.setenv(support.UNTESTED, no)
        assert "molmo" in support.unsupported(config)
    monkeypatch.setenv(support.UNTESTED, "1")
    assert support.unsupported(config) == ""


@pytest.mark.parametrize(
    "steering",
    [
        {"adaptvis": {"method": "scalingvis", "alpha": -1}},
        {"adaptvis": {"method": "scalingvis", "alpha": 2, "layers": [9]}},
        {"adaptvis": {"method": "scalingvis", "alpha": True}},
        {"adaptviz": {"method": "scalingvis", "alpha": 2}},
        {"adaptvis_alpha": 2},
    ],
)
def test_a_bad_default_is_refused_at_start(folder, steering) -> None:
    config = engine_config(folder, additional_config=steering)
    with pytest.raises(ConfigError, match=r"alpha|layers"):
        _policy(config)


def test_steered_beam_search_is_refused() -> None:
    request = ChatCompletionRequest(
        messages=[{"role": "user", "content": "hi"}],
        use_beam_search=True,
        vllm_xargs={"adaptvis_alpha": 2.0},
    )
    with pytest.raises(VLLMValidationError, match="Beam search"):
        request.to_beam_search_params(1, {})
    plain = request.model_copy(update={"vllm_xargs": {"adaptvis_method": "off"}})
    assert plain.to_beam_search_params(1, {}).max_tokens == 1


def test_of_chosen_images_the_missing_ones_are_named(plugin_log) -> None:
    config = ScalingVis(alpha=2.0, images=(1, 7, 9))
    assert ticket_for(config, [[(3, 5)], [(6, 8)]], 20, "id").config == config
    assert "a prompt of 2 lacks 7, 9 " in plugin_log.text


def test_prompts_that_cannot_be_steered_say_why() -> None:
    config = ScalingVis(alpha=2.0)
    image = [[(3, 10)]]
    assert ticket_for(config, image, 20, "id").config == config
    assert ticket_for(config, [], 20, "id").reason == "the prompt has no image tokens"
    second = config.model_copy(update={"images": (1,)})
    assert "selected images" in ticket_for(second, image, 20, "id").reason
    assert ticket_for(config, image, 10, "id").config == config
    assert "ends in an image" in ticket_for(config, image, 10, "id", last_row_alone=False).reason
    text = AdaptVis(rows="text_after_image")
    assert "no text follows" in ticket_for(text, image, 10, "id").reason
    with pytest.raises(VLLMValidationError, match="one unbroken run"):
        ticket_for(text, [[(3, 5), (6, 10)]], 20, "id")
    video = [(10, 15)]
    assert ticket_for(config, image, 20, "id", others=video).config == config
    with pytest.raises(VLLMValidationError, match="only text follows"):
        ticket_for(text, image, 20, "id", others=video)
    ending = ticket_for(config, image, 15, "id", others=video, last_row_alone=False)
    assert "ends in an image" in ending.reason
    assert replace(ticket_for(None, image, 20, "id"), request_id="").config is None


def test_the_kill_switch_leaves_vllm_alone(monkeypatch) -> None:
    unknown = Verdict("9.9", "0.32.0", True, ("AsyncLLM.generate is missing",))
    monkeypatch.setattr(plugin, "verdict", lambda: unknown)
    monkeypatch.setenv(plugin.STRICT, "1")
    monkeypatch.setenv(plugin.DISABLE, "1")
    plugin.register()
    for no in ("0", "false", "OFF", "no", ""):
        monkeypatch.setenv(plugin.DISABLE, no)
        with pytest.raises(UnsupportedError, match=r"vLLM 9\.9 .*generate is missing"):
            plugin.register()


def preprocess(request, additional_config=None):
    """What an engine does first with a request, whatever its front end is."""
    engine = EngineCore.__new__(EngineCore)
    engine.vllm_config = SimpleNamespace(additional_config=additional_config or {})
    engine.mm_receiver_cache = engine.request_block_hasher = None
    return engine.preprocess_add_request(request)[0]


def engine_request(extra_args=None, pooling=None):
    return EngineCoreRequest(
        request_id="id",
        prompt_token_ids=[1, 2],
        mm_features=None,
        sampling_params=None if pooling else SamplingParams(max_tokens=1, extra_args=extra_args),
        pooling_params=pooling,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
    )


def test_a_request_that_did_not_pass_our_front_end_is_refused_by_the_engine() -> None:
    plugin.register()
    for fields in ({"adaptvis_alpha": 2.0}, STEERING, {"adaptviz_alpha": 2.0}):
        with pytest.raises(VLLMValidationError, match="did not pass adaptvis's front end"):
            preprocess(engine_request(fields))
    embedding = PoolingParams(task="embed", extra_kwargs={"adaptvis_alpha": 2.0})
    with pytest.raises(VLLMValidationError, match="did not pass adaptvis's front end"):
        preprocess(engine_request(pooling=embedding))
    with pytest.raises(VLLMValidationError, match="did not pass adaptvis's front end"):
        preprocess(engine_request(), STEERING)
    ticket = Ticket(ScalingVis(alpha=2.0), "", "id").write({})
    for fields in (None, {"others": 1, "alpha": 2}, {"adaptvis": "off"}, ticket):
        assert preprocess(engine_request(fields)).request_id == "id"
    for fields in ({"adaptvis": "off"}, ticket):
        assert preprocess(engine_request(fields), STEERING).request_id == "id"


def test_a_default_does_not_start_behind_the_rust_front_end(monkeypatch) -> None:
    norms = {"adaptvis": {"method": "norm_rescale", "target": 1.0}}
    steered, plain, rescaled = (
        SimpleNamespace(additional_config=one) for one in (STEERING, {}, norms)
    )
    check_front_end(steered)
    monkeypatch.setenv(support.RUST_FRONT_END, "1")
    with pytest.raises(UnsupportedError, match="Rust front end: unset it"):
        WorkerWrapperBase.init_device(SimpleNamespace(vllm_config=steered))
    check_front_end(plain)
    check_front_end(rescaled)


def test_fields_of_ours_in_pooling_requests_are_refused() -> None:
    for fields in ({"adaptvis_alpha": 2}, {"adaptvis": "2"}, {"adaptviz_alpha": 2}):
        with pytest.raises(VLLMValidationError, match="adaptvis"):
            _read(None, PoolingParams(extra_kwargs=fields))
    for fields in (None, {"alpha": 2}, {"adaptvis": "off"}):
        assert _read(None, PoolingParams(extra_kwargs=fields)) is None


def test_strict_takes_only_versions_that_were_tested(monkeypatch) -> None:
    monkeypatch.setenv(plugin.STRICT, "1")
    monkeypatch.setenv(support.UNTESTED, "1")
    read = Verdict("0.33.0", "0.33.0", False)
    unknown = Verdict("9.9", "0.32.0", True, ("AsyncLLM.generate is missing",))
    for verdict in (read, unknown):
        monkeypatch.setattr(plugin, "verdict", lambda verdict=verdict: verdict)
        for start in (plugin.register, plugin.check_vllm):
            with pytest.raises(UnsupportedError, match="or unset ADAPTVIS_STRICT") as refused:
                start()
            assert support.UNTESTED not in str(refused.value)
    monkeypatch.setenv(plugin.STRICT, "0")
    assert plugin.check_vllm() is unknown


def test_the_application_is_found_wherever_an_unknown_vllm_puts_it(monkeypatch, plugin_log) -> None:
    given = []
    monkeypatch.setattr(launcher, "init_entrypoints_middleware", lambda *a, **k: given.append(a))
    V0_32().add_to_servers("ours")
    added = []
    app = SimpleNamespace(add_middleware=added.append)
    launcher.init_entrypoints_middleware("arguments", app, "more")
    launcher.init_entrypoints_middleware(app)
    launcher.init_entrypoints_middleware(server=app)
    assert added == ["ours"] * 3
    assert given == [("arguments", app, "more"), (app,), ()]
    assert plugin_log.text == ""
    launcher.init_entrypoints_middleware("arguments")
    assert given[-1] == ("arguments",)
    assert "passed over there without a word" in plugin_log.text


def test_a_server_that_is_built_otherwise_goes_on_with_a_warning(plugin_log) -> None:
    assert _with_middleware(lambda: "server", "ours")() == "server"
    assert "passed over there without a word" in plugin_log.text
