"""Which source files a class is made of, so that a stored result outlives changes in all others."""

import ast
import dataclasses
import functools
import inspect
from collections.abc import Mapping
from pathlib import Path

import knn_jax
from knn_jax.workdir import digest

ROOT = Path(knn_jax.__file__).parent


def version(*classes: type) -> str:
    """A name for the sources that these classes use, directly or through others; of classes outside
    knn_jax their own file."""
    found: set[Path] = set()
    for each in classes:
        for base in each.__mro__:
            file = _written_in(base)
            if file is not None and ("knn_jax" in base.__module__ or base is each):
                found |= _closure(Path(file))
    return digest(*(path.read_text() for path in sorted(found)))


def everything() -> str:
    """A name for all sources of knn_jax."""
    return digest(*(path.read_text() for path in sorted(ROOT.rglob("*.py"))))


def _written_in(kind: type) -> str | None:
    """The file of a class; of one in a recipe's own file that of its methods."""
    try:
        return inspect.getsourcefile(kind)
    except TypeError:  # it is built in, or its module was run and not imported
        methods = (part for part in vars(kind).values() if inspect.isfunction(part))
        files = [method.__code__.co_filename for method in methods]
        return next((file for file in files if Path(file).is_file()), None)


def classes(*parts: object) -> set[type]:
    """The classes of values, and of the values, modules and partial functions within them."""
    found, left = set(), list(parts)
    while left:
        part = left.pop()
        if isinstance(part, functools.partial):
            left += [part.func, *part.args, *part.keywords.values()]
        elif isinstance(part, Mapping):
            left += part.values()
        elif isinstance(part, list | tuple):
            left += part
        elif dataclasses.is_dataclass(part) and not isinstance(part, type):
            found.add(type(part))
            left += [getattr(part, field.name, None) for field in dataclasses.fields(part)]
    return found


@functools.cache
def _closure(file: Path) -> frozenset[Path]:
    """The file and all of knn_jax that it imports, however far."""
    found, left = set(), [file]
    while left:
        path = left.pop()
        if path not in found:
            found.add(path)
            left += _imports(path)
    return frozenset(found)


@functools.cache
def _imports(file: Path) -> tuple[Path, ...]:
    """The files of knn_jax that a file uses. Of a package imported as a whole these are the files of
    the names that it uses, so that a new name beside these changes nothing."""
    tree = ast.parse(file.read_text())
    found: list[Path] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names if alias.name.startswith("knn_jax.")]
            found += [module for name in named if (module := _file(name))]
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("knn_jax"):
            continue
        for alias in node.names:
            module = _file(f"{node.module}.{alias.name}")
            if module is None:  # a name in a module or a package
                found += _defining(node.module or "", alias.name)
            elif module.name == "__init__.py":
                package = f"{node.module}.{alias.name}"
                for name in _used(tree, alias.asname or alias.name):
                    found += _defining(package, name)
            else:
                found.append(module)
    return tuple(found)


def _used(tree: ast.AST, name: str) -> set[str]:
    """The attributes of `name` that the source reads."""
    reads = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    return {node.attr for node in reads if isinstance(node.value, ast.Name) and node.value.id == name}


def _defining(module: str, name: str) -> list[Path]:
    """The file that a name of a module is from; for a package, where its __init__ has it from."""
    file = _file(module)
    if file is None:
        return []
    if file.name != "__init__.py":
        return [file]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("knn_jax"):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    within = _file(f"{node.module}.{alias.name}")
                    return [within] if within else _defining(node.module or "", alias.name)
    within = _file(f"{module}.{name}")
    return [within] if within else [file]


def _file(module: str) -> Path | None:
    """The file of a module of knn_jax, if it is one."""
    base = ROOT.joinpath(*module.split(".")[1:])
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None
