"""Steering in the arguments of requests and servers."""

from __future__ import annotations

import json

import pytest

from adaptvis import AdaptVis, Amplify, NormRescale, Region, ScalingVis
from adaptvis.errors import ConfigError
from adaptvis.vllm import extra_args
from adaptvis.vllm.parameters import ServerSteering, Ticket, read_request, read_server, ticket_of

CONFIGS = [
    ScalingVis(alpha=1.5),
    ScalingVis(alpha=0.0, rows="generated", images=(0, 2)),
    AdaptVis(alpha_low=0.3, alpha_high=2.0, threshold=0.7, layers="1-3", heads=(0, 5)),
    AdaptVis(threshold=0.64, compared="rounded_logit"),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_a_configuration_survives_the_journey(config) -> None:
    assert read_request(extra_args(config), None) == config
    arguments = Ticket(config, "", "id").write({"other": 1, **extra_args(config)})
    assert ticket_of(arguments) == Ticket(config, "", "id")
    assert arguments["other"] == 1
    assert "adaptvis" not in arguments


def test_a_request_beats_the_server_and_may_switch_steering_off() -> None:
    default = ScalingVis(alpha=2.0)
    assert read_request(None, default) == default
    assert read_request({"other": 1}, default) == default
    assert read_request({"adaptvis_alpha": 1.2}, default) == ScalingVis(alpha=1.2)
    assert read_request(extra_args(None), default) is None
    assert read_request({"adaptvis_method": "off"}, default) is None


@pytest.mark.parametrize(
    "word", ["off", "OFF", " Off ", "none", "None", "null", "false", "no", "0", None, False, 0, 0.0]
)
def test_off_is_understood_however_it_is_said(word) -> None:
    default = ScalingVis(alpha=2.0)
    assert read_request({"adaptvis": word}, default) is None
    assert read_request({"adaptvis_method": word}, default) is None
    assert read_request({"adaptvis": {"method": word}}, default) is None
    assert read_request({"adaptvis": json.dumps({"method": word})}, default) is None
    assert read_server({"adaptvis": word}) == ServerSteering()
    assert read_server({"adaptvis": [word, NormRescale()]}) == ServerSteering(None, NormRescale())
    assert extra_args(word) == {"adaptvis": "off"}


def test_a_key_given_twice_is_refused() -> None:
    text = '{"method": "scalingvis", "alpha": 2, "alpha": 0.5}'
    with pytest.raises(ConfigError, match="the key 'alpha' is given twice"):
        read_request({"adaptvis": text}, None)


@pytest.mark.parametrize("word", ["", " ", "on", "true", True, 1, []])
def test_what_is_neither_off_nor_a_configuration_is_refused(word) -> None:
    for value in (word, {"method": word}):
        with pytest.raises(ConfigError, match=r"^adaptvis: .*(JSON|method|mapping|given|argument)"):
            read_request({"adaptvis": value}, None)
    with pytest.raises(ConfigError, match="adaptvis_"):
        read_request({"adaptvis_method": word}, None)
    if word != []:
        with pytest.raises(ConfigError, match=r"^additional_config\['adaptvis'\]: "):
            read_server({"adaptvis": word})


@pytest.mark.parametrize(
    "arguments",
    [
        {"adaptvis_alpha": True},
        {"adaptvis_alpha": False},
        {"adaptvis_alpha": None},
        {"adaptvis_alpha": "true"},
        {"adaptvis_alpha": ""},
        {"adaptvis_alpha": "inf"},
        {"adaptvis_alpha_low": True},
        {"adaptvis_threshold": True},
        {"adaptvis_alpha": 2, "adaptvis_layers": True},
        {"adaptvis_alpha": 2, "adaptvis_layers": [True]},
        {"adaptvis_alpha": 2, "adaptvis_heads": [False]},
        {"adaptvis_alpha": 2, "adaptvis_images": [True, 1]},
        {"adaptvis": {"method": "scalingvis", "alpha": True}},
        {"adaptvis": '{"method": "adaptvis", "threshold": true}'},
    ],
)
def test_a_truth_value_is_not_a_number(arguments) -> None:
    with pytest.raises(ConfigError, match=r"number|tuple|mask of booleans"):
        read_request(arguments, None)


@pytest.mark.parametrize("wrapper", ["extra_args", "vllm_xargs", "mine"])
def test_fields_inside_another_object_are_refused(wrapper) -> None:
    with pytest.raises(ConfigError, match=f"^{wrapper} in extra_args holds fields of ours"):
        read_request({wrapper: {"adaptvis_alpha": 2}}, None)
    with pytest.raises(ConfigError, match=f"^'{wrapper}' in additional_config would steer nothing"):
        read_server({wrapper: {"adaptvis": {"method": "scalingvis", "alpha": 2}}})
    assert read_request({wrapper: {"alpha": 2}}, None) is None
    assert read_server({wrapper: {"alpha": 2}}) == ServerSteering()


@pytest.mark.parametrize(
    "name", ["adaptviz_alpha", "adaptvis-alpha", "AdaptVis_alpha", "adaptviz", "alpha", "alpha_low"]
)
def test_fields_under_wrong_names_are_refused(name) -> None:
    with pytest.raises(ConfigError, match=f"'{name}' in vllm_xargs would steer nothing; write"):
        read_request({name: 2.0}, None, place="vllm_xargs")
    with pytest.raises(ConfigError, match=f"'{name}' in additional_config would steer nothing"):
        read_server({name: 2.0, "other": 1})


def test_a_server_has_no_flat_fields() -> None:
    with pytest.raises(ConfigError, match=r'one object: {"adaptvis": {"method"'):
        read_server({"adaptvis_alpha": 2})
    assert read_server({"other_plugin": {"alpha": 2}, "adaptive": 1}) == ServerSteering()


@pytest.mark.parametrize(
    ("flat", "config"),
    [
        ({"adaptvis_alpha": 2}, ScalingVis(alpha=2.0)),
        ({"adaptvis_alpha": "2"}, ScalingVis(alpha=2.0)),
        ({"adaptvis_threshold": 0.3}, AdaptVis(threshold=0.3)),
        ({"adaptvis_method": "adaptvis"}, AdaptVis()),
        ({"adaptvis_compared": "rounded_logit"}, AdaptVis(compared="rounded_logit")),
        (
            {"adaptvis_alpha": 2.0, "adaptvis_layers": "0-2", "adaptvis_heads": 1},
            ScalingVis(alpha=2.0, layers=(0, 1, 2), heads=(1,)),
        ),
        (
            {"adaptvis_alpha_low": 0.5, "adaptvis_images": [1], "adaptvis_rows": "generated"},
            AdaptVis(alpha_low=0.5, images=(1,), rows="generated"),
        ),
    ],
)
def test_flat_fields_make_a_configuration(flat, config) -> None:
    assert read_request(flat, None) == config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"adaptvis_layers": "1"}, "adaptvis_method"),
        ({"adaptvis_alpha": 1.0, "adaptvis_threshold": 0.5}, "adaptvis_method"),
        ({"adaptvis_alpha": float("nan")}, "alpha"),
        ({"adaptvis_threshold": 2}, "threshold"),
        ({"adaptvis_compared": "logit"}, "adaptvis_compared"),
        ({"adaptvis_method": "off", "adaptvis_alpha": 1.0}, "takes no other"),
        ({"adaptvis_method": "sharpen"}, "sharpen"),
        ({"adaptvis_regions": 1}, "adaptvis_regions"),
        ({"adaptvis": 5}, "mapping"),
        ({"adaptvis": {"method": "scalingvis"}}, "alpha"),
        ({"adaptvis": '{"method": "norm_rescale"}'}, "--additional-config"),
    ],
)
def test_what_is_wrong_is_named(arguments, message) -> None:
    with pytest.raises(ConfigError, match=message):
        read_request(arguments, None)


def test_a_client_cannot_bring_its_own_ticket() -> None:
    forged = Ticket(ScalingVis(alpha=9.0), "", "id").write({})
    assert read_request(forged, None) is None
    written = Ticket(None, "", "mine").write(forged)
    assert ticket_of(written) == Ticket(None, "", "mine")


def test_regions_are_refused() -> None:
    region = Region(box=(0, 0, 1, 1), image_size=(4, 4))
    with pytest.raises(ConfigError, match="regions"):
        extra_args(ScalingVis(alpha=2.0, regions=(region,)))


@pytest.mark.parametrize("as_text", [False, True])
def test_amplification_is_refused_before_its_file_is_opened(tmp_path, as_text) -> None:
    config = {"method": "amplify", "alpha": 2.0, "directions": str(tmp_path / "missing")}
    whole = json.dumps(config) if as_text else config
    with pytest.raises(ConfigError, match="amplify is not available in vLLM, which shares image"):
        read_request({"adaptvis": whole}, None)
    with pytest.raises(ConfigError, match="amplify is not available"):
        read_request({"adaptvis_method": "amplify", "adaptvis_alpha": 2.0}, None)
    with pytest.raises(ConfigError, match="amplify is not available"):
        extra_args(config)


def test_a_server_does_not_amplify_either(tmp_path) -> None:
    directions = tmp_path / "directions.safetensors"
    directions.write_bytes(b"anything")
    config = Amplify(directions=directions, alpha=2.0)
    with pytest.raises(ConfigError, match="amplify is not available"):
        read_server({"adaptvis": config.to_dict()})
    with pytest.raises(ConfigError, match="amplify is not available"):
        extra_args(config)


def test_a_server_takes_one_of_each_kind() -> None:
    attention, norms = ScalingVis(alpha=1.2), NormRescale()
    assert read_server(None) == read_server({}) == read_server({"adaptvis": "off"})
    assert read_server({"adaptvis": attention.to_dict()}) == ServerSteering(attention)
    both = {"adaptvis": [attention.to_dict(), norms.to_dict()]}
    assert read_server(both) == ServerSteering(attention, norms)
    with pytest.raises(ConfigError, match="one kind"):
        read_server({"adaptvis": [attention.to_dict(), AdaptVis().to_dict()]})
