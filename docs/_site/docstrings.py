"""Makes Markdown of docstrings: a public name in them becomes a link, and what follows ``::`` an example in Python."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import griffe

CODE = re.compile(r"(?<!`)``([A-Za-z_][\w.]*)(\(\))?``(?!`)")
LITERAL = re.compile(r"^( *)::\n\n((?:\1    .*\n|\n)+)", re.MULTILINE)
MODULES = ("errors", "limits", "types", "wsgi_bridge", "django_bridge", "testing")

Name = griffe.Object | griffe.Alias


class Docstrings(griffe.Extension):
    """Rewrites every docstring of the package once it is loaded."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        if pkg.name == "asgicore":
            _rewrite(pkg, pkg)


def _rewrite(package: griffe.Module, obj: griffe.Object) -> None:
    if obj.docstring is not None:
        text = LITERAL.sub(_example, obj.docstring.value + "\n").rstrip("\n")
        obj.docstring.value = CODE.sub(lambda code: _link(package, obj, code), text)
    for member in obj.members.values():
        if isinstance(member, griffe.Object):
            _rewrite(package, member)


def _example(literal: re.Match[str]) -> str:
    indent, lines = literal[1], literal[2].rstrip("\n").splitlines()
    code = "\n".join(line.removeprefix("    ") for line in lines)
    return f"{indent}```python\n{code}\n{indent}```\n\n"


def _link(package: griffe.Module, obj: griffe.Object, code: re.Match[str]) -> str:
    """A cross reference around the code, where it names something public that is not described right here."""
    name, call = code[1], code[2] or ""
    if name in getattr(obj, "parameters", ()):
        return code[0]
    for found in _meanings(package, obj, name.removeprefix("asgicore.").split(".")):
        if found.canonical_path != obj.canonical_path and found.has_docstring and found.is_function == bool(call):
            return f"[`{name}{call}`][{found.canonical_path}]"
    return code[0]


def _meanings(package: griffe.Module, obj: griffe.Object, names: list[str]) -> Iterator[Name]:
    """What the names may stand for there: a member of the class, or something to be imported."""
    owner = obj if obj.is_class else obj.parent
    if owner is not None and owner.is_class:
        yield from _members(owner.all_members.get(names[0]), names[1:])
    for module in (package, *(package.members[name] for name in MODULES)):
        if names[0] in (module.exports or ()):
            yield from _members(module.members[names[0]], names[1:])


def _members(thing: Name | None, names: list[str]) -> Iterator[Name]:
    for name in names:
        thing = thing.all_members.get(name) if thing is not None and thing.is_class else None
    if thing is not None and not thing.name.startswith("_"):
        yield thing
