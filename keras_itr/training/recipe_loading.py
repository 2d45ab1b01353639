import dataclasses
import difflib
import pathlib
import re
import reprlib

import yaml

# Naming another one of these replaces the inherited mapping: its other keys were arguments of the old one.
_KINDS = ("type", "source")
_ABSENT = object()


class RecipeError(ValueError):
    """A fault in a recipe, in one line: where, which key, what is wrong, and the nearest valid choice."""


class _Loader(yaml.SafeLoader):
    pass


class _Dumper(yaml.SafeDumper):
    pass


for _class in (_Loader, _Dumper):
    # YAML 1.1 takes 1e-4 for text and a bare date for a date; a recipe means a number and text.
    _exponent = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _exponent, list("-+.0123456789"))
    _class.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in _class.yaml_implicit_resolvers.items()
    }


@dataclasses.dataclass
class Source:
    """The values of a recipe and where each of them was written.

    Args:
        values: nested dicts, lists and scalars.
        places: dict from key path (tuple of keys) to `"file:line"`, or to
            `"--set key=value"`. `()` is the recipe file itself.
    """

    values: dict
    places: dict

    def error(self, path, message):
        """A `RecipeError` about the key at `path`, placed there or at its nearest written parent."""
        length = next(length for length in range(len(path), -1, -1) if path[:length] in self.places)
        key = ".".join(str(part) for part in path)
        return RecipeError(f"{self.places[path[:length]]}: {key}: {message}")


def nearest(name, choices):
    """The end of a message: the choice that `name` resembles, or all of them."""
    close = difflib.get_close_matches(str(name), choices, n=1)
    return f"did you mean '{close[0]}'?" if close else f"choose from {', '.join(choices) or 'none'}"


def shown(value):
    """A received value in a message: short, on one line, and as YAML writes it where that differs."""
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else reprlib.repr(value)


def dump(values):
    """Nested values -> YAML text that `read_source` reads back to equal values."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def read_source(path, overrides=()):
    """A recipe file, what it extends, and the overrides, merged.

    Args:
        path: path of a YAML file. Its key `extends` names one other file,
            relative to its own folder, and so on; the nearer file wins, mapping
            by mapping.
        overrides: sequence of `"dotted.key=value"`; the value is read as YAML.

    Returns:
        A `Source` without the key `extends`.

    Raises:
        RecipeError: if a file is missing, empty, not plain YAML, or extends
            itself; if a key is written twice.

    Example:

    ```python
    from keras_itr.training.recipe_loading import read_source

    read_source("recipes/cusa_shapes.yaml", ["run.epochs=3"]).values["run"]["epochs"]  # 3
    ```

    Source: our choice.
    """
    source = _read_with_base(pathlib.Path(path), chain=())
    for override in overrides:
        source = _merge(source, _parse_override(override, source.values))
    return source


def _read_with_base(path, chain):
    source = _parse_file(path)
    if "extends" not in source.values:
        return source
    base = source.values.pop("extends")
    if not isinstance(base, str):
        raise source.error(("extends",), f"must be the path of one other recipe, got {shown(base)}")
    base_path, chain = path.parent / base, (*chain, path)
    if base_path.resolve() in [file.resolve() for file in chain]:
        raise source.error(("extends",), "a recipe cannot extend itself: " + " -> ".join(map(str, (*chain, base_path))))
    if not base_path.is_file():
        raise source.error(("extends",), _missing_file(base_path))
    merged = _merge(_read_with_base(base_path, chain), source)
    merged.places[()] = source.places[()]
    return merged


def _missing_file(path):
    recipes = sorted(file.name for file in path.parent.glob("*.y*ml"))
    close = difflib.get_close_matches(path.name, recipes, n=1)
    return f"no such file {path}" + (f"; did you mean '{path.with_name(close[0])}'?" if close else "")


def _parse_file(path):
    if not path.is_file():
        raise RecipeError(_missing_file(path))
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read as text: {error}") from None
    return _parse(text, lambda line: f"{path}:{line}")


def _parse_override(override, old):
    key, equals, value = override.partition("=")
    place = "--set " + " ".join(override.split())
    path = tuple(key.split("."))
    if not equals or not all(path):
        raise RecipeError(f"{place}: write it as --set key=value, for example --set run.epochs=3")
    # A section that is there already stays where it was written.
    parents = [path[:length] for length in range(1, len(path))]
    places = {parent: place for parent in parents if not isinstance(_at(old, parent), dict)}
    places[path] = place
    node = _compose(value, lambda line: place)
    values = None if node is None else _values(node, path, lambda line: place, places)
    for part in reversed(path):
        values = {part: values}
    return Source(values, places)


def _parse(text, place):
    node = _compose(text, place)
    if node is None:
        raise RecipeError(f"{place(1)}: the recipe is empty; it needs the keys model, data and run")
    if not isinstance(node, yaml.MappingNode):
        raise RecipeError(f"{place(1)}: a recipe is a mapping with the keys model, data and run, not a {node.id}")
    places = {(): place(1)}
    return Source(_values(node, (), place, places), places)


def _compose(text, place):
    try:
        # Tags and aliases are visible in the events alone. Without aliases a value has exactly one line.
        for event in yaml.parse(text, Loader=_Loader):
            where = place(event.start_mark.line + 1)
            if getattr(event, "tag", None):
                tag = event.tag.replace("tag:yaml.org,2002:", "!!")
                raise RecipeError(f"{where}: YAML tag {tag} is not allowed; write a plain value")
            if isinstance(event, yaml.AliasEvent):
                raise RecipeError(f"{where}: YAML alias *{event.anchor} is not allowed; write the value out")
        return yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise RecipeError(f"{place(mark.line + 1)}: not valid YAML: {error.problem}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise RecipeError(f"{place(line)}: not valid YAML: {error.reason}") from None


def _values(node, path, place, places):
    if isinstance(node, yaml.SequenceNode):
        return [_value_at(item, (*path, row), item, place, places) for row, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return _Loader("").construct_object(node)
    values = {}
    for key, value in node.value:
        if key.tag != "tag:yaml.org,2002:str":
            raise RecipeError(f"{place(key.start_mark.line + 1)}: keys are text, got {shown(key.value)}; quote it")
        here = (*path, key.value)
        if key.value in values:
            name, where = ".".join(map(str, here)), place(key.start_mark.line + 1)
            raise RecipeError(f"{where}: {name}: written twice, first at {places[here]}")
        values[key.value] = _value_at(value, here, key, place, places)
    return values


def _value_at(node, path, written, place, places):
    places[path] = place(written.start_mark.line + 1)
    return _values(node, path, place, places)


def _merge(base, top):
    values = _merged(base.values, top.values)
    places = {**base.places, **top.places}
    return Source(values, {path: place for path, place in places.items() if _at(values, path) is not _ABSENT})


def _at(values, path):
    for part in path:
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            return _ABSENT
    return values


def _merged(old, new):
    """Deep merge in which `new` wins; a mapping of another kind is replaced."""
    another = any(kind in old and kind in new and old[kind] != new[kind] for kind in _KINDS)
    if another:
        return new
    both = dict(old)
    for key, value in new.items():
        mappings = isinstance(value, dict) and isinstance(both.get(key), dict)
        both[key] = _merged(both[key], value) if mappings else value
    return both
