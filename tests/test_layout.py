"""Guards for what a reader of one file cannot see: layers, names, what an import pulls in, what may be in git."""

import ast
import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("data", "engine", "kernels", "ops", "pipelines")
MAX_FILE_BYTES = 10 * 1024 * 1024


def tracked_files() -> list[Path]:
    """What git has, and what it would take (new files that it does not ignore)."""
    listing = subprocess.run(
        [
            "git",
            "-c",
            f"safe.directory={ROOT}",
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
    ).stdout.decode()
    return [path for name in listing.split("\0") if name and (path := ROOT / name).is_file()]


def python_files() -> list[Path]:
    return [path for path in tracked_files() if path.suffix == ".py"]


def modules_after(statement: str) -> tuple[set[str], float]:
    """The top-level modules that a fresh interpreter holds after the statement, and the seconds it took."""
    program = f"{statement}\nimport sys; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    start = time.perf_counter()
    # In another folder: with the repository root on sys.path, a wrong import could be right by accident.
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT.parent,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=120,
    )
    return set(result.stdout.split()), time.perf_counter() - start


def test_kernels_has_no_init() -> None:
    """transformers would import it in the place of Hugging Face's package `kernels`."""
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_every_folder_with_python_files_is_packaged_typed_and_linted() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    packages = {
        "docmill." + ".".join(path.parent.relative_to(ROOT).parts)
        for path in python_files()
        if path.relative_to(ROOT).parts[0] in FOLDERS
        and path.parent != ROOT / "data/demo/model"  # run by path
    }
    top = {name for name in packages if name.count(".") == 1}
    assert set(tools["setuptools"]["packages"]) == packages
    assert set(tools["mypy"]["packages"]) == top
    assert set(tools["importlinter"]["root_packages"]) == top


def test_layers_hold(tmp_path: Path) -> None:
    (tmp_path / "docmill").symlink_to(
        ROOT
    )  # as `make lint` does: the editable hook hides `docmill.kernels` from it
    result = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_no_folder_is_imported_by_its_short_name() -> None:
    """`import engine` instead of `import docmill.engine`: a second copy of every module, with unequal classes."""
    bare = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in python_files()
        for node in ast.walk(ast.parse(path.read_text()))
        for name in imported_names(node)
        if name.partition(".")[0] in FOLDERS
    ]
    assert bare == []


def imported_names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        return [node.module or ""]
    return []


@pytest.mark.parametrize("folder", ["data", "ops"])
def test_no_module_pulls_in_torch_vllm_or_dagster(folder: str) -> None:
    names = [
        "docmill." + ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in python_files()
        if path.relative_to(ROOT).parts[0] == folder and path.parent != ROOT / "data/demo/model"
    ]
    modules, _ = modules_after("import " + ", ".join(sorted(names)))
    assert modules & {"torch", "vllm", "dagster"} == set()


def test_dagster_definitions_load_in_seconds_and_without_torch() -> None:
    modules, seconds = modules_after("import docmill.pipelines.definitions")
    assert modules & {"torch", "vllm"} == set()
    # 2 seconds on an idle machine; the best of three, because a neighbour's load is not ours to fail for.
    best = min([seconds, *(modules_after("import docmill.pipelines.definitions")[1] for _ in range(2))])
    assert best < 5


def test_nothing_large_is_tracked() -> None:
    large = {
        str(path.relative_to(ROOT)): size
        for path in tracked_files()
        if (size := path.stat().st_size) > MAX_FILE_BYTES
    }
    assert large == {}


def test_no_address_of_a_registry_and_no_path_of_one_machine_is_tracked() -> None:
    """Where packages come from is the reader's own setting, and so is where the repository lies."""
    patterns = [
        r"(index-url|registry|find-links)[ =:\"']+(https?|file)://",
        r"(pypi\.org|pythonhosted\.org|registry\.npmjs\.org|deb\.debian\.org|download\.pytorch\.org)",
        r"(?<![\w.])/(root|home/\w+)/",
        re.escape(f"{ROOT}/"),
    ]
    here = Path(__file__)
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}"
        for path in tracked_files()
        if path != here and path.stat().st_size < 2_000_000
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if any(re.search(pattern, line) for pattern in patterns)
    ]
    assert found == []


def test_data_is_not_ignored_by_git() -> None:
    """`data/` stands in many people's global ignore lists and templates; here it is source."""
    lines = [line.strip().strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()]
    assert not {"data", "**/data", "data/*", "*.parquet", "*.safetensors"} & set(lines)
    assert ROOT / "data" / "__init__.py" in tracked_files()


def test_the_makefile_has_the_targets_that_people_know() -> None:
    output = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    targets = {line.split()[1] for line in output.splitlines()}
    assert targets >= {"demo", "demo-accuracy", "ui", "test", "lint", "lock", "clean", "help"}
