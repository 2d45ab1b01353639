"""Every public name is documented, with an example that is Python; and the pages that are made of it."""

import ast
import inspect
import re

import pytest

import keras_itr
from keras_itr.reference import public_names, write_reference

# What nobody calls or makes by hand, or what takes a name and gives nothing.
WITHOUT_EXAMPLE = {
    "Found",
    "MissingData",
    "RecipeError",
    "Recipe",
    "Registries",
    "Ranking",
    "Tower",
    "check_protocol",
    "list_presets",
}
NAMES = [(part, name) for part in keras_itr._PARTS for name in public_names(part)]


@pytest.mark.parametrize("part", keras_itr._PARTS)
def test_every_public_name_is_documented(part):
    for name, member in public_names(part).items():
        text = inspect.getdoc(member) or ""
        assert len(text) > 40, f"{part}.{name} has no docstring"
        assert "Example" in text or name in WITHOUT_EXAMPLE, f"{part}.{name} has no example"
        for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            ast.parse(code)


def test_the_pages_hold_every_name(tmp_path):
    pages = write_reference(tmp_path / "reference")
    assert set(pages) == set(keras_itr._PARTS) and sum(pages.values()) == len(NAMES) > 100
    index = (tmp_path / "reference/index.md").read_text(encoding="utf-8")
    for part, name in NAMES:
        page = (tmp_path / f"reference/{part}.md").read_text(encoding="utf-8")
        assert f"\n## {name}\n" in page and f"](#{name.lower()}) |" in page and name in index
    assert {"Gallery", "TwoStageSearch", "nearest"} <= set(public_names("search"))


def test_sections_are_lists_and_methods_have_headings(tmp_path):
    write_reference(tmp_path)
    page = (tmp_path / "models.md").read_text(encoding="utf-8")
    assert "\n### ImageTextRetriever.embed_images\n" in page and "_check_arrays" not in page
    assert "keras_itr.models.from_preset(preset" in page
    assert "\n**Args**\n\n- `scores`: `(Q, G)` scores, higher is better.\n" in (tmp_path / "metrics.md").read_text()
    outside = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
    assert not re.search(r"^(Args|Returns|Raises):$", outside, re.MULTILINE)
