"""What `import lisae_tf` gives: few names, imported when they are asked for."""

import importlib
import json
import subprocess
import sys

import pytest

import lisae_tf

HEAVY = ("tensorflow", "keras", "sklearn", "pydantic", "PIL", "numpy")
LIGHT = f"""
import json, sys
import lisae_tf
first = [name for name in {HEAVY} if name in sys.modules]
lisae_tf.LisaeError, lisae_tf.open_model
print(json.dumps([first, [name for name in {HEAVY} if name in sys.modules]]))
"""


def test_the_import_is_light_and_open_model_needs_no_tensorflow():
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    first, then = json.loads(done.stdout)
    assert first == []
    assert {"tensorflow", "keras", "sklearn", "pydantic"}.isdisjoint(then)


def test_each_name_is_that_of_its_module():
    assert set(lisae_tf.__all__) == set(lisae_tf._MODULES) <= set(dir(lisae_tf))
    for name, module in lisae_tf._MODULES.items():
        assert getattr(lisae_tf, name) is getattr(importlib.import_module(module), name)


def test_another_name_is_refused():
    with pytest.raises(AttributeError, match="no attribute 'Detektor'"):
        lisae_tf.Detektor
