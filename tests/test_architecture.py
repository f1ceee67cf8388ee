"""The arrows between the packages run one way, and the packages are ours."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import modules_without

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]

FORBIDDEN = {
    "shared": {"flwr", "runtime", "server", "client", "simulation", "deployment", "centralized_baseline", "benchmarks"},
    "runtime": {"server", "client", "simulation", "deployment", "centralized_baseline", "benchmarks"},
    "server": {"runtime", "client", "simulation", "deployment", "centralized_baseline", "benchmarks"},
    "client": {"runtime", "server", "simulation", "deployment", "centralized_baseline", "benchmarks"},
    "simulation": {"benchmarks", "deployment"},
    "deployment": {"client", "simulation", "centralized_baseline", "benchmarks"},
    "centralized_baseline": {"flwr", "runtime", "benchmarks"},
}

LAYERS = ["data", "augmentations", "losses", "encoders", "extras", "weighting", "tasks", "model", "train"]
"""Inside shared: a layer imports only those before it."""


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module}
    return found


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_package_imports_only_what_it_may(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        tops = {name.split(".")[0] for name in imports(path)}
        assert tops & FORBIDDEN[package] == set(), path


def test_inside_shared_a_layer_imports_only_lower_ones() -> None:
    for height, layer in enumerate(LAYERS):
        above = {f"shared.{name}" for name in LAYERS[height + 1 :]}
        folder = ROOT / "shared" / layer
        files = list(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
        for path in files:
            reached = {".".join(name.split(".")[:2]) for name in imports(path)}
            assert reached & above == set(), path


def test_every_package_is_listed_and_resolves_inside_this_repository() -> None:
    found = {p.parent.relative_to(ROOT).as_posix().replace("/", ".") for p in ROOT.glob("*/**/__init__.py")}
    found = {name for name in found if not name.startswith((".", "runs"))}
    assert found == set(PACKAGES)
    code = "import importlib, sys; print(*(importlib.import_module(n).__file__ for n in sys.argv[1:]), sep='\\n')"
    told = subprocess.run([sys.executable, "-c", code, *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=True)
    for line in told.stdout.splitlines():
        assert Path(line).resolve().is_relative_to(ROOT)


def test_the_container_of_a_client_has_all_that_its_code_imports() -> None:
    """Without Docker: every package that its image does not install, with what those need, is hidden from Python."""
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    listed = re.search(r"client-packages\nRUN pip install --constraint \S+ \\\n\s+(.*?) \\\n", dockerfile)
    packages = {"flwr", *listed[1].split()}
    assert len(packages) > 10
    hidden = [module for module in modules_without(packages) if module != "seglearn"]
    assert {"sklearn", "threadpoolctl", "torchjd"}.isdisjoint(hidden)
    assert {"matplotlib", "onnxruntime", "ray"} <= set(hidden)
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({hidden!r})); "
        "import client.app, server.app, deployment.__main__, shared.data.__main__"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
