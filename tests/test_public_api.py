"""The names that users import, and what importing costs."""

import subprocess
import sys

import pytest

import adaptvis
from adaptvis import errors


def test_every_public_name_resolves():
    assert adaptvis.__all__ == sorted(adaptvis.__all__, key=lambda name: (not name.isupper(), name))
    for name in adaptvis.__all__:
        assert getattr(adaptvis, name) is not None


def test_the_documented_import_line_works():
    from adaptvis import AdaptVis, NormRescale, ScalingVis, patch, steer, unpatch

    assert all((AdaptVis, NormRescale, ScalingVis, patch, steer, unpatch))


def test_an_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        adaptvis.nothing  # noqa: B018


def test_importing_the_package_loads_neither_torch_nor_transformers():
    code = "import sys, adaptvis; print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_every_exception_is_an_adaptvis_error_and_a_warning_is_not():
    for name in errors.__all__:
        item = getattr(errors, name)
        if isinstance(item, type) and issubclass(item, Warning):
            assert item is adaptvis.AdaptVisWarning
        elif isinstance(item, type):
            assert issubclass(item, errors.AdaptVisError)


def test_an_unknown_name_lists_the_known_ones_and_suggests_the_nearest():
    message = errors.unknown_name("method", "adaptvs", ["scalingvis", "adaptvis"])
    assert message == (
        "Unknown method 'adaptvs': known are adaptvis, scalingvis; did you mean 'adaptvis'?"
    )
    assert "mean" not in errors.unknown_name("method", "zzz", ["adaptvis"])
