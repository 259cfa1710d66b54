"What an installation gets: each module, and the marker that says it has types."
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
setuptools = pytest.importorskip("setuptools")


@pytest.fixture
def setup(monkeypatch):
    "What setup.py asks setuptools for."
    asked = {}
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(setuptools, "setup", asked.update)
    runpy.run_path("setup.py")
    return asked


def test_each_folder_with_modules_is_shipped(setup):
    folders = {file.parent for file in (ROOT / "iddm").rglob("*.py")}
    assert set(setup["packages"]) == {".".join(folder.relative_to(ROOT).parts) for folder in folders}


def test_the_types_are_shipped(setup):
    for name in setup["package_data"]["iddm"]:
        assert (ROOT / "iddm" / name).is_file(), name
    assert "py.typed" in setup["package_data"]["iddm"]


def test_extras_have_what_their_users_need(setup):
    extras = setup["extras_require"]
    assert set(extras["nb"]) < set(extras["dev"])
    assert {"pytest", "ruff", "mypy"} < set(extras["dev"])
