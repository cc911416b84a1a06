"""The house rules that no other tool checks."""

import ast
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "llmcls"
HEAVY = {"torch", "transformers", "pandas", "sklearn", "numpy", "datasets", "peft", "trl", "accelerate", "bitsandbytes"}

IMPORTED = "import json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
HELP = """
import contextlib, io, sys
sys.argv = ["llmcls", "--help"]
out = io.StringIO()
with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
    from llmcls.cli import main
    main()
assert "train" in out.getvalue(), out.getvalue()
"""


def run_python(*arguments: str, cwd: Path = ROOT, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("code", ["import llmcls", HELP], ids=["import llmcls", "llmcls --help"])
def test_starts_without_heavy_imports(code):
    imported = set(json.loads(run_python("-c", f"{code}\n{IMPORTED}").splitlines()[-1]))
    assert "llmcls" in imported
    assert not imported & HEAVY


def test_no_module_shadows_another_package():
    # `accelerate launch llmcls ...` puts the package's own folder on the search path for a moment.
    ours = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    installed = {name for name in importlib.metadata.packages_distributions() if not name.startswith("llmcls")}
    assert not (ours - {"__init__", "__main__", "__pycache__"}) & (installed | sys.stdlib_module_names)


@pytest.mark.parametrize(
    "start",
    [["llmcls"], ["-m", "llmcls"], [str(PACKAGE)]],
    ids=["python llmcls", "python -m llmcls", "python /path/to/llmcls"],
)
def test_starts_as_launchers_start_it(start):
    assert "train" in run_python(*start, "--help")


def test_starting_by_folder_replaces_the_folder_on_the_search_path(tmp_path):
    package = tmp_path / "llmcls"
    (package / "cli").mkdir(parents=True)
    shutil.copy(PACKAGE / "__main__.py", package)
    (package / "__init__.py").touch()
    (package / "cli" / "__init__.py").write_text("def main():\n    import sys\n    print(sys.path)\n")
    search_path = ast.literal_eval(run_python("llmcls", cwd=tmp_path))
    assert search_path[0] == str(tmp_path)
    assert not [entry for entry in search_path if Path(entry).resolve() == package]


def test_accelerate_launch_runs_the_folder():
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    assert "train" in run_python(*launch, "llmcls", "--help", ACCELERATE_DISABLE_RICH="1")


def test_files_stay_readable():
    long = {
        str(path.relative_to(ROOT)): lines
        for path in PACKAGE.rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 450
    }
    assert not long, f"split these: {long}"


def test_no_file_names_a_place_on_somebodys_machine():
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("only a git checkout knows which files are the project's")
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    roots = ("home", "Users", "root", "work", "workspace", "workspaces", "runner")
    places = re.compile(rf"(?<![\w./~:<>*-])/({'|'.join(roots)})/[\w.]|[A-Za-z]:\\\\?Users\\")
    here = {f"{ROOT}/", f"{Path.home()}/", f"{sys.prefix}/"} - {"//", "/"}
    found = []
    for name in filter(None, listing.stdout.decode().split("\0")):
        path = ROOT / name
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError):
            continue  # weights and the like; or deleted and not yet committed
        for number, line in enumerate(text.splitlines(), 1):
            if places.search(line) or any(place in line for place in here):
                found.append(f"{name}:{number}: {line.strip()[:100]}")
    assert not found
