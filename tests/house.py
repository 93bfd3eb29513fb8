"""Measures the structure of the code against the limits of CONTRIBUTING.md.

python3 -m tests.house [PACKAGE ...]     prints every breach, and the figures of each package
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
PRODUCT = ("configs", "pipeline", "dataset", "pretrain", "finetune", "result_collection")
PACKAGES = (*PRODUCT, "benchmarks")
MAX_MODULES = 15  # in a folder
MAX_LINES = 350  # of a file
MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 8
MAX_CLAUSES = 0.20  # share of the docstrings whose first sentence holds a relative clause
# Signatures that the manual and transformers prescribe.
GIVEN_SIGNATURES = (
    ("pretrain/loop.py", "train"),
    ("pretrain/model/configuration_extremebert.py", "__init__"),
)
DEFAULTS = "configs/defaults.py"  # a row for each key: as long as there are keys
CLAUSE = re.compile(r"\b(what|that|which|who|whose|whether|where)\b", re.IGNORECASE)
FIRST_SENTENCE = re.compile(r".*?(?:[.:!?](?=\s)|\n\s*\n|$)", re.DOTALL)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources(package: str) -> dict[Path, ast.Module]:
    """Returns the syntax tree of each module, by its path from the project's root."""
    paths = sorted(PROJECT.joinpath(package).rglob("*.py"))
    return {p.relative_to(PROJECT): ast.parse(p.read_text(encoding="utf-8")) for p in paths}


def breaches(trees: dict[Path, ast.Module]) -> Iterator[str]:
    """Yields a line for each limit that is broken."""
    for folder in sorted({path.parent for path in trees}):
        modules = [path for path in trees if path.parent == folder and path.stem != "__init__"]
        if len(modules) > MAX_MODULES and folder.parts[0] in PRODUCT:
            yield f"{folder}: {len(modules)} modules, at most {MAX_MODULES}"
    for path, tree in trees.items():
        num_lines = len((PROJECT / path).read_text(encoding="utf-8").splitlines())
        if num_lines > MAX_LINES and str(path) != DEFAULTS:
            yield f"{path}: {num_lines} lines, at most {MAX_LINES}"
        for node in ast.walk(tree):
            if isinstance(node, Function):
                yield from _breaches_of_function(path, node)
    yield from _cycles(trees)


def _breaches_of_function(path: Path, node: Function) -> Iterator[str]:
    num_lines = (node.end_lineno or node.lineno) - node.lineno + 1
    if num_lines > MAX_FUNCTION_LINES and str(path) != DEFAULTS:
        yield f"{path}:{node.lineno}: {node.name} has {num_lines} lines, at most 60"
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    count = sum(argument.arg not in ("self", "cls") for argument in arguments)
    if count > MAX_PARAMETERS and (str(path), node.name) not in GIVEN_SIGNATURES:
        yield f"{path}:{node.lineno}: {node.name} takes {count} parameters, at most 8"


def _cycles(trees: dict[Path, ast.Module]) -> Iterator[str]:
    """Yields a line for each pair of modules that import each other, however many lie between."""
    modules = {_module_name(path): tree for path, tree in trees.items()}
    imports = {name: set(_imports(tree)) & modules.keys() for name, tree in modules.items()}
    reachable = {name: _reachable(name, imports) for name in imports}
    for name in sorted(imports):
        for other in sorted(imports[name]):
            if name in reachable[other] and name < other:
                yield f"{name} and {other} import each other"


def _module_name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _reachable(start: str, imports: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for name in imports[waiting.pop()] - seen:
            seen.add(name)
            waiting.append(name)
    return seen


def hanging_docstrings(trees: dict[Path, ast.Module]) -> tuple[list[str], int]:
    """Returns `path:line: sentence` for each first sentence with a clause, and the total count."""
    hanging, total = [], 0
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if not isinstance(node, Function | ast.ClassDef | ast.Module):
                continue
            text = ast.get_docstring(node)
            if not text:
                continue
            total += 1
            match = FIRST_SENTENCE.match(text)
            sentence = match[0] if match else text
            if CLAUSE.search(sentence):
                line = getattr(node, "lineno", 1)
                hanging.append(f"{path}:{line}: {' '.join(sentence.split())}")
    return hanging, total


def main(packages: list[str]) -> int:
    """Prints breaches and figures; returns 1 if there are breaches."""
    all_trees: dict[Path, ast.Module] = {}
    num_hanging = num_docstrings = 0
    for package in packages or PACKAGES:
        trees = sources(package)
        hanging, total = hanging_docstrings(trees)
        lines = sum(len((PROJECT / p).read_text(encoding="utf-8").splitlines()) for p in trees)
        share = f"{len(hanging) / max(1, total):.0%} of {total} docstrings hang on a clause"
        print(f"{package}: {len(trees)} files, {lines:,} lines, {share}")
        if packages:
            print(*hanging, sep="\n")
        all_trees |= trees
        num_hanging, num_docstrings = num_hanging + len(hanging), num_docstrings + total
    found = list(breaches(all_trees))
    if num_hanging > MAX_CLAUSES * num_docstrings:
        found.append(f"{num_hanging / num_docstrings:.0%} of the docstrings hang, at most 20 %")
    print(*found, sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
