"Everything is set in settings.ini."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
parser = ConfigParser(delimiters=["="])
parser.read(HERE / "settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]
package = cfg["lib_path"]
extra = "_requirements"

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    url=cfg["git_url"],
    license=cfg["license"],
    python_requires=">=" + cfg["min_python"],
    packages=find_packages(include=[package, f"{package}.*"]),
    package_data={package: ["py.typed"]},  # type checkers may trust our annotations
    install_requires=cfg["requirements"].split(),
    extras_require={key.removesuffix(extra): cfg[key].split() for key in cfg if key.endswith(extra)},
    entry_points={
        "console_scripts": cfg["console_scripts"].split(),
        "nbdev": [f"{package}={package}._modidx:d"],  # where nbdev finds names to link to
    },
)
