"""What users get: wheels of llmcls and of every plugin here, in a fresh environment, run outside the checkout."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LLMCLS", "PIP_"))}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=kept, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    for project in (ROOT, *PLUGINS):
        run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, project, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def fresh(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts folder of an environment with our wheels; third-party packages are those of this environment."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    scripts = folder / "bin"
    pip = [sys.executable, "-m", "pip", "--python", scripts / "python", "install", "--quiet"]
    run(*pip, "--no-deps", "--no-index", "--no-cache-dir", *sorted(wheels.glob("*.whl")), cwd=folder)
    # A path file reaches this environment's packages, not its path files, so not its editable installs. Written after
    # the wheels are in, for pip would take the editable ones for installed already.
    (own_packages,) = folder.glob("lib/python*/site-packages")
    (own_packages / "third-party.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return scripts


def names_in(wheels: Path, project: str) -> set[str]:
    (wheel,) = wheels.glob(f"{project}-*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.mark.parametrize(("folder", "suffix"), [("templates", ".j2"), ("launch", ".yaml")])
def test_the_wheel_holds_what_is_shipped_beside_the_package(wheels, folder, suffix):
    shipped = {f"llmcls/{folder}/{path.name}" for path in (ROOT / folder).iterdir()}
    assert any(name.endswith(suffix) for name in shipped)
    assert shipped <= names_in(wheels, "llmcls")


def test_the_wheel_holds_the_package_and_nothing_else(wheels):
    names = names_in(wheels, "llmcls")
    code = {path.relative_to(ROOT).as_posix() for path in (ROOT / "llmcls").rglob("*.py")}
    assert code | {"llmcls/py.typed"} <= names
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"llmcls"}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if "__pycache__" in name or "test_" in name]


def test_every_plugin_wheel_has_an_entry_point_and_no_tests(wheels):
    for plugin in PLUGINS:
        names = names_in(wheels, plugin.name.replace("-", "_"))
        assert any(name.endswith("dist-info/entry_points.txt") for name in names)
        assert not [name for name in names if "tests/" in name or "test_" in name]


def test_the_wheels_copy_is_what_runs(fresh, tmp_path):
    modules = ["llmcls", *(plugin.name.replace("-", "_") for plugin in PLUGINS)]
    code = f"import json, importlib; print(json.dumps([importlib.import_module(m).__file__ for m in {modules}]))"
    for place in json.loads(run(fresh / "python", "-c", code, cwd=tmp_path)):
        assert Path(place).is_relative_to(fresh.parent)


def test_every_plugin_is_loaded(fresh, tmp_path):
    listing = run(fresh / "llmcls", "plugins", cwd=tmp_path)
    for name in ("base_models", "prompt_templates", "dataset_readers", *(plugin.name for plugin in PLUGINS)):
        assert name in listing


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--help"], ["train", "predict", "evaluate", "label-counts"]),
        (["templates", "list"], ["instruction", "chat", "few_shot", "question"]),
        (["templates", "show", "instruction", "--data", "demo:"], ["answer tokens carry loss"]),
        (["models", "list"], ["nano", "llama-3.2-1b", "pythia-410m"]),
        (["readers", "list"], ["csv", "hub", "demo", "texts"]),
        (["label-counts", "demo:"], ["train: ", "test: "]),
        (["config", "init"], ["lora:", "learning_rate:"]),
    ],
)
def test_commands_run(fresh, tmp_path, arguments, says):
    output = run(fresh / "llmcls", *arguments, cwd=tmp_path)
    for part in says:
        assert part in output


def test_runs_as_a_module_too(fresh, tmp_path):
    assert "train" in run(fresh / "python", "-m", "llmcls", "--help", cwd=tmp_path)
