"""The pages are built strictly: no link leads nowhere, no name is missing."""

import os
import subprocess
import sys

import pytest
from conftest import CHECKOUT

pytest.importorskip("mkdocs")
pytestmark = pytest.mark.slow


def test_the_documentation_is_built(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", tmp_path / "site"],
        cwd=CHECKOUT, capture_output=True, text=True, check=False,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(CHECKOUT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "reference" / "commands" / "index.html").read_text()
    assert "--negative-mask-dir" in page
    page = (tmp_path / "site" / "reference" / "python" / "index.html").read_text()
    assert "false_positive_rate" in page and "An exported model, ready to score" in page
