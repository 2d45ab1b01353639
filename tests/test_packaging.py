"""What a wheel holds: every file of the package, by the globs of pyproject.toml."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
PACKAGE = ROOT / "keras_itr"


def test_every_file_beside_the_code_is_package_data():
    files = {
        path
        for path in PACKAGE.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc") and "__pycache__" not in path.parts
    }
    covered = {path for pattern in SETTINGS["package-data"]["keras_itr"] for path in PACKAGE.glob(pattern)}
    assert files and not files - covered


def test_every_folder_of_code_is_a_package():
    assert SETTINGS["packages"]["find"]["include"] == ["keras_itr*"]
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert all((folder / "__init__.py").is_file() for folder in folders)


def test_every_asset_of_others_comes_with_its_licence():
    assets = PACKAGE / "preprocessing" / "assets"
    for path in assets.iterdir():
        if not path.name.endswith(".LICENSE.txt"):
            assert (assets / f"{path.name.split('.')[0]}.LICENSE.txt").is_file(), path.name
