"""The public API as Markdown, out of the docstrings."""

import importlib
import inspect
import re

import keras_itr
from keras_itr.files import written_whole

_SECTION = re.compile(r"(Args|Attributes|Call arguments|Inputs|Returns|Yields|Raises):")
_ENTRY = re.compile(r"(?P<indent> *)(?P<names>[*\w`\",. ()-]+?): (?P<text>.*)")


def public_names(part):
    """The public names of one part of the package.

    Args:
        part: string, such as `"models"`.

    Returns:
        dict of name to class or function, by name.

    Example:

    ```python
    from keras_itr.reference import public_names

    public_names("metrics")["hit_rate"]
    ```
    """
    package = importlib.import_module(f"keras_itr.{part}")
    members = {name: getattr(package, name) for name in sorted(dir(package)) if not name.startswith("_")}
    return {name: member for name, member in members.items() if not inspect.ismodule(member)}


def write_reference(directory):
    """Write one page for each part of the package, `<part>.md`, and `index.md`.

    Args:
        directory: folder to write to; it is made, and pages of the same names are replaced.

    Returns:
        dict of part to the number of names on its page.

    Example:

    ```python
    from keras_itr.reference import write_reference

    write_reference("docs/reference")
    ```

    Source: our choice.
    """
    parts = {part: public_names(part) for part in keras_itr._PARTS}
    for part, members in parts.items():
        _write(directory, part, _page(part, members))
    lines = [f"- [keras_itr.{part}]({part}.md): {', '.join(members)}" for part, members in parts.items()]
    _write(directory, "index", "\n".join([f"# keras_itr {keras_itr.__version__}", "", *lines]))
    return {part: len(members) for part, members in parts.items()}


def _write(directory, name, text):
    with written_whole(f"{directory}/{name}.md") as aside:
        aside.write_text(text + "\n", encoding="utf-8")


def _page(part, members):
    table = ["| name | what it is |", "|---|---|"]
    table += [f"| [{name}](#{name.lower()}) | {_summary(member)} |" for name, member in members.items()]
    entries = [_entry(f"keras_itr.{part}.", name, member) for name, member in members.items()]
    return "\n".join([f"# keras_itr.{part}", "", *table, *entries])


def _entry(prefix, name, member):
    """A heading, the signature, the docstring, and those of the public methods that a class has of its own."""
    lines = ["", f"## {name}", "", "```python", f"{prefix}{name}{_signature(member)}", "```", "", _text(member)]
    for method, function in vars(member).items() if inspect.isclass(member) else ():
        function = getattr(function, "__func__", function)  # of a class method
        if method.startswith("_") or not inspect.isfunction(function) or not function.__doc__:
            continue
        lines += ["", f"### {name}.{method}", "", "```python", f"{method}{_signature(function)}", "```", ""]
        lines += [_text(function)]
    return "\n".join(lines)


def _signature(member):
    try:
        return str(inspect.signature(member))
    except (TypeError, ValueError):  # an exception, whose constructor is not written in Python
        return "(...)"


def _summary(member):
    return (inspect.getdoc(member) or "").split("\n\n")[0].replace("\n", " ").replace("|", "\\|")


def _text(member):
    """A docstring as Markdown: sections are headings in bold, and their entries a list."""
    lines, in_section = [], False
    for line in (inspect.getdoc(member) or "").split("\n"):
        if _SECTION.fullmatch(line):
            in_section = True
            lines += [f"**{line.removesuffix(':')}**", ""]
        elif in_section and (line.startswith("    ") or not line):
            lines.append(_section_line(line))
        else:
            in_section = False
            lines.append(line)
    return "\n".join(lines)


def _section_line(line):
    line = line.removeprefix("    ")
    entry = _ENTRY.fullmatch(line)
    if entry and not entry["indent"]:
        return f"- `{entry['names'].strip('`')}`: {entry['text']}"
    return line.strip() if line.startswith("  ") else line
