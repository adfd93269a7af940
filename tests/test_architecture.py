"""The map of the package holds: imports go one way, files and functions stay readable, rooms have names."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sam_hf"
FILE_LINES, FUNCTION_LINES = 500, 60

# What each room may import besides itself. `hub` stands beside `inference`: it knows the model and nothing above it.
ALLOWED = {
    "masks": set(),
    "model": set(),
    "inference": {"masks", "model"},
    "data": {"masks", "model"},
    "training": {"masks", "model", "data"},
    "hub": {"masks", "model", "inference"},
    "data_engine": {"masks", "model", "data", "inference", "hub"},
    "evaluation": {"masks", "model", "data", "inference", "hub"},
    "ui": {"masks", "model", "inference", "hub"},
    "checkpoints": set(),
}
DRAWERS = {"utils", "helpers", "common", "types", "misc"}


def _sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def _module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_module_name(path): path for path in _sources()}


def _room(module: str) -> str:
    """The folder below sam_hf that a module is in; "" for the package itself and for files directly in it."""
    path = MODULES[module]
    return path.relative_to(PACKAGE).parts[0] if path.parent != PACKAGE else ""


def _imports(path: Path) -> Iterator[tuple[str, ast.AST, bool]]:
    """Every imported name of a file, absolute and as deep as it is written, and whether it runs at import."""
    module = _module_name(path)
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]

    def walk(node: ast.AST, at_import: bool) -> Iterator[tuple[str, ast.AST, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield alias.name, child, at_import
            elif isinstance(child, ast.ImportFrom):
                base = package[: len(package) - child.level + 1] if child.level else []
                source = ".".join([*base, *([child.module] if child.module else [])])
                for alias in child.names:
                    yield f"{source}.{alias.name}", child, at_import
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            else:
                lazy = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from walk(child, at_import and not lazy)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), True)


def _target(name: str) -> str | None:
    """The module of ours that an imported name lies in, or None if it is somebody else's."""
    parts = name.split(".")
    while parts:
        if ".".join(parts) in MODULES:
            return ".".join(parts)
        parts.pop()
    return None


def test_every_room_is_on_the_map():
    assert {_room(module) for module in MODULES} - {""} <= set(ALLOWED)


def test_imports_go_one_way():
    upward = []
    for module, path in MODULES.items():
        room = _room(module)
        for name, node, _ in _imports(path):
            target = _target(name)
            if room == "" or target is None or _room(target) in {"", room} | ALLOWED[room]:
                continue
            upward.append(f"{path.relative_to(ROOT)}:{node.lineno} {room} imports {target}")
    assert not upward, "\n".join(upward)


def test_no_room_imports_the_command_line():
    users = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in MODULES.values()
        for name, node, _ in _imports(path)
        if _target(name) == "sam_hf.cli"
    ]
    assert not users


def test_imports_make_no_circle():
    edges = {
        module: {_target(name) for name, _, runs in _imports(path) if runs} - {None, module}
        for module, path in MODULES.items()
    }
    finished: set[str] = set()

    def visit(module: str, trail: list[str]) -> None:
        if module in trail:
            pytest.fail("circular import: " + " -> ".join([*trail[trail.index(module) :], module]))
        if module in finished:
            return
        for target in sorted(edges[module]):
            visit(target, [*trail, module])
        finished.add(module)

    for module in sorted(edges):
        visit(module, [])


@pytest.mark.parametrize("folder", ["sam_hf", "tests", "benchmarks", "examples"])
def test_files_stay_short(folder):
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / folder).rglob("*.py")}
    too_long = [f"{path.relative_to(ROOT)}: {lines}" for path, lines in lengths.items() if lines > FILE_LINES]
    assert not too_long, f"over {FILE_LINES} lines, split by what they hold: {too_long}"


def _code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring, whose length is the reader's gain."""
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        lines -= function.body[0].end_lineno - function.body[0].lineno + 1
    return lines


def test_functions_stay_short():
    too_long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {_code_lines(node)}"
        for path in MODULES.values()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _code_lines(node) > FUNCTION_LINES
    ]
    assert not too_long, f"over {FUNCTION_LINES} lines: {too_long}"


def test_no_drawers():
    drawers = [module for module in MODULES if DRAWERS & {part.strip("_") for part in module.split(".")}]
    assert not drawers, "name a module after what it holds"


def test_the_product_does_not_use_the_peers_it_replaces():
    peers = ("transformers.models.sam", "segment_anything")
    uses = [
        f"{path.relative_to(ROOT)}:{node.lineno} {name}"
        for path in MODULES.values()
        for name, node, _ in _imports(path)
        if any(name == peer or name.startswith((peer + ".", peer + "_")) for peer in peers)
        or name in ("transformers.SamModel", "transformers.SamProcessor", "transformers.SamImageProcessor")
    ]
    assert not uses


def test_model_imports_are_flat():
    """Remote code is copied file by file: only `from .sibling import name` works there."""
    wrong = []
    for module, path in MODULES.items():
        if _room(module) != "model":
            continue
        assert path.parent == PACKAGE / "model", f"{path} is nested"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                flat = node.level == 0 or (node.level == 1 and node.module and "." not in node.module)
                ours = node.level == 0 and (node.module or "").split(".")[0] == "sam_hf"
            elif isinstance(node, ast.Import):
                flat, ours = True, any(alias.name.split(".")[0] == "sam_hf" for alias in node.names)
            else:
                continue
            if ours or not flat:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)}")
    assert not wrong, "\n".join(wrong)
