import inspect
import re
import types
import typing

from keras_itr.training.recipe_loading import nearest, shown

# Given by the code that builds the thing, never by a recipe.
_SUPPLIED = ("self", "backbone", "preprocessor", "plugins", "split", "name", "dtype")
# Arguments of a tower that follow from the data, the tokenizer or the image converter.
_DERIVED = ("feature_dim", "image_size", "vocabulary_size", "sequence_length")
# The path of a file, or made of the training captions where a recipe names none.
_OPTIONAL = ("graph",)
_SIMPLE_TYPES = {int: "an integer", float: "a number", bool: "true or false", str: "text", type(None): "null"}


def first_error(error, source, fields):
    """The one line for a pydantic `ValidationError`: the first fault, in the recipe's own words.

    Args:
        error: the `ValidationError`.
        source: the `Source` that was validated.
        fields: dict from the path of a section, as pydantic gives it, to the
            names that are valid there.

    Returns:
        A `RecipeError`.
    """
    # A misspelt key comes with "missing" for the key that was meant: the former is the one to show.
    entry = min(error.errors(), key=lambda entry: entry["type"] == "missing")
    kind, path = entry["type"], entry["loc"]
    # In a union pydantic puts the chosen member's name behind the union's own.
    written = path[:2] + path[3:] if path[:2] == ("run", "schedule") else path
    if kind == "extra_forbidden":
        return source.error(written, f"unknown key; {nearest(path[-1], fields[path[:-1]])}")
    if kind.startswith("union_tag"):
        written = (*written, "type")
    return source.error(written, _complaint(entry))


def _complaint(entry):
    kind, context, received = entry["type"], entry.get("ctx", {}), entry["input"]
    if kind in ("missing", "union_tag_not_found"):
        return "required key is missing"
    if kind == "value_error":
        return str(context["error"])
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return f"must be a mapping, got {shown(received)}"
    choices = re.findall("'([^']*)'", context.get("expected_tags", context.get("expected", "")))
    if choices:
        received = context.get("tag", received)
        return f"unknown value {shown(received)}; {nearest(received, choices)}"
    return f"{entry['msg'].replace('Input should be', 'must be')}, got {shown(received)}"


def check_components(recipe, registries, source):
    """Checks every name of a recipe against its registry and every argument against a signature.

    Args:
        recipe: a `Recipe` whose own keys are valid.
        registries: a `Registries`.
        source: the `Source` that the recipe was made of, for the place in
            messages.

    Raises:
        RecipeError: if a name or an argument is unknown, an argument is missing,
            or its type is not that of the annotation or, without one, of the
            default.
    """
    model, data = recipe.model, recipe.data
    method = _look_up(source, ("model", "method"), registries.methods, model.method)
    _check_arguments(source, ("model", "arguments"), f"'{model.method}'", method, model.arguments)
    components = [
        (("model", "image_tower"), model.image_tower, registries.image_towers, _DERIVED),
        (("model", "text_tower"), model.text_tower, registries.text_towers, _DERIVED),
        *((("model", "plugins", row), plugin, registries.plugins, ()) for row, plugin in enumerate(model.plugins)),
    ]
    if model.tokenizer is not None:
        components.append((("model", "tokenizer"), model.tokenizer, registries.tokenizers, ()))
    for path, component, registry, derived in components:
        function = _look_up(source, (*path, "type"), registry, component.type)
        own_keys = type(component).model_fields
        _check_arguments(source, path, f"'{component.type}'", function, component.arguments, own_keys, derived)
    if model.image_converter is not None:
        path, function = ("model", "image_converter"), registries.image_converter
        _check_arguments(source, path, "the image converter", function, model.image_converter)
    reader = _look_up(source, ("data", "source"), registries.readers, data.source)
    _check_arguments(source, ("data",), f"'{data.source}'", reader, data.arguments, type(data).model_fields)


def _look_up(source, path, registry, name):
    if name not in registry:
        raise source.error(path, f"unknown value {shown(name)}; {nearest(name, registry)}")
    return registry[name]


def _check_arguments(source, path, label, function, arguments, own_keys=(), derived=()):
    """Checks a mapping of arguments; `own_keys` stand beside them, `derived` ones are given by the trainer."""
    parameters = parameters_of(function)
    for name, value in arguments.items():
        here = (*path, name)
        if name in parameters and name in derived:
            raise source.error(here, f"remove it: {label} is given it by the data, tokenizer or image converter")
        if name not in parameters:
            choices = [choice for choice in (*parameters, *own_keys) if choice not in derived]
            raise source.error(here, f"unknown argument of {label}; {nearest(name, choices)}")
        if name in _OPTIONAL and not isinstance(value, (str, type(None))):
            raise source.error(here, f"must be the path of a file, or null, got {shown(value)}")
        expected = _expected(parameters[name], value)
        if expected and not any(_is(value, simple) for simple in expected):
            allowed = " or ".join(_SIMPLE_TYPES[simple] for simple in expected)
            raise source.error(here, f"must be {allowed}, got {shown(value)}")
    given = (*arguments, *derived, *_OPTIONAL)
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in given:
            raise source.error((*path, name), f"required argument of {label} is missing")


def parameters_of(function):
    """dict of name to `inspect.Parameter`: what a recipe, or the trainer, may give to a class or function."""
    # Not signature(class): a `__new__` of a base class would hide the constructor.
    signature = inspect.signature(function.__init__ if inspect.isclass(function) else function)
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        name: parameter
        for name, parameter in signature.parameters.items()
        if parameter.kind in named and name not in _SUPPLIED
    }


def _expected(parameter, value):
    """The simple types that a parameter allows; empty if anything may do."""
    annotation = parameter.annotation
    if annotation is parameter.empty:
        # The default tells a number from a truth value. Lists, null, and a text default allow more than they show.
        simple = {bool: bool, int: float, float: float}.get(type(parameter.default))
        return (simple,) if simple and type(value) in (bool, int, float, str) else ()
    union = isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union
    members = typing.get_args(annotation) if union else (annotation,)
    return members if all(member in _SIMPLE_TYPES for member in members) else ()


def _is(value, simple):
    return type(value) in (int, float) if simple is float else type(value) is simple
