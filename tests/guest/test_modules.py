"""The guest's modules: nothing but the standard library, and the syntax of Python 3.8."""

from __future__ import annotations

import ast
import binascii
import sys
import zlib
from pathlib import Path

import pytest

import sandboxkit.guest
from sandboxkit.guest import bundle

HERE = Path(str(sandboxkit.guest.__file__)).parent
MODULES = sorted(path for path in HERE.glob("*.py") if path.name != "__init__.py")


def imports(tree: ast.Module) -> set[str]:
    """What it imports by full name; relative imports as `.name`."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(str(node.module).partition(".")[0])
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 1, "it reaches out of the package"
            names = [node.module] if node.module else [alias.name for alias in node.names]
            found |= {f".{name}" for name in names}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_it_is_python_3_8_and_imports_the_standard_library_only(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"), feature_version=(3, 8))
    ours = {f".{module.stem}" for module in MODULES}
    foreign = imports(tree) - sys.stdlib_module_names - ours
    assert not foreign


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_name_newer_than_3_8_is_looked_up_at_run_time(path: Path) -> None:
    """`list[int]` and `int | None` fail outside of annotations, which are not evaluated."""
    source = path.read_text("utf-8")
    assert "from __future__ import annotations" in source
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
            assert node.value.id not in {"list", "dict", "set", "tuple", "type"}, node.lineno


@pytest.mark.parametrize("text", [False, True])
def test_the_bundle_has_every_module_and_is_one_line(text: bool) -> None:
    line = bundle(text=text)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    source = zlib.decompress(binascii.a2b_base64(line)).decode()
    ast.parse(source, feature_version=(3, 8))
    for path in MODULES:
        assert f'"{path.stem}"' in source
