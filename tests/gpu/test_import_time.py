"""No module asks for a GPU when it is imported: that starts CUDA, in processes that need none."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = ("benchmarks", "configs", "dataset", "finetune", "pipeline", "pretrain")
ASKING = ("torch.cuda.", "torch.accelerator.", "torch.backends.", "get_accelerator")


def _run_on_import(node: ast.AST) -> Iterator[ast.AST]:
    """A module's nodes but the bodies of functions and of what only a program runs."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "__name__" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            defaults = [*child.args.defaults, *child.args.kw_defaults]
            decorators = getattr(child, "decorator_list", [])
            parts = [part for part in (*defaults, *decorators) if part is not None]
            yield from (node for part in parts for node in ast.walk(part))
        else:
            yield child
            yield from _run_on_import(child)


def _calls_on_import(source: str) -> set[str]:
    calls = (node for node in _run_on_import(ast.parse(source)) if isinstance(node, ast.Call))
    return {name for call in calls if (name := ast.unparse(call.func)).startswith(ASKING)}


@pytest.mark.slow
def test_no_module_asks_for_a_gpu_when_it_is_imported():
    paths = [PROJECT / "main.py", *(p for name in PACKAGES for p in (PROJECT / name).rglob("*.py"))]
    found = {str(path.relative_to(PROJECT)): _calls_on_import(path.read_text()) for path in paths}
    assert len(found) > 100
    assert {path: calls for path, calls in found.items() if calls} == {}


def test_the_bodies_of_functions_do_not_count():
    assert _calls_on_import("HAS = torch.cuda.is_available()") == {"torch.cuda.is_available"}
    default = "def f(device=torch.cuda.current_device()): ..."
    assert _calls_on_import(default) == {"torch.cuda.current_device"}
    body = "class A:\n    def f(self): return torch.cuda.is_available()"
    assert _calls_on_import(body) == set()
