"""What an import loads; the installed package runs without the checkout."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import runs
from commands import ROOT, python

import sentiment_jax

MODES = ", ".join(f"sentiment_jax.modes.{m}" for m in ("train", "evaluate", "predict", "sweep"))


def test_an_import_loads_no_slow_library_that_it_does_not_need(tmp_path):
    for imported, not_loaded in {
        "sentiment_jax": "absl jax ml_collections numpy pandas sentiment_jax.api",
        "sentiment_jax.main": "jax numpy pandas tokenizers",  # until the flags are read
        MODES: "pandas sklearn scipy.stats jinja2",  # JAX itself loads some of scipy
    }.items():
        code = f"import sys, {imported}; print(*sys.modules)"
        loaded = python("-c", code, cwd=tmp_path, PYTHONPATH=ROOT).stdout.split()
        assert {*imported.split(", ")} <= {*loaded}
        assert not {*not_loaded.split()} & {*loaded}


def test_the_wheel_is_told_of_every_file():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {"sentiment_jax.configs": ROOT / "configs"}
    folders |= {
        ".".join(path.parent.relative_to(ROOT).parts): path.parent
        for path in (ROOT / "sentiment_jax").rglob("*.py")
    }
    assert {*settings["packages"]} == {*folders}
    for name, folder in folders.items():
        data = settings["package-data"].get(name, [])
        for path in filter(Path.is_file, folder.iterdir()):
            assert path.suffix == ".py" or any(map(path.match, data)), path


@pytest.mark.slow
def test_the_wheel_is_complete_and_runs_from_an_empty_folder(tmp_path):
    """Nothing is downloaded: the tests' environment has what a build needs."""
    source = tmp_path / "source"
    site = tmp_path / "site"
    empty = tmp_path / "empty"
    ignored = shutil.ignore_patterns("__pycache__", ".*", "results", "tests", "build", "*.egg-info")
    shutil.copytree(ROOT, source, ignore=ignored)
    empty.mkdir()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q"]
    pip += ["--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, f"--target={site}", source], check=True, timeout=200)
    for folder in ("sentiment_jax", "configs"):
        inside = site / "sentiment_jax" / folder.removeprefix("sentiment_jax")
        for path in (source / folder).rglob("*"):
            if path.is_file():
                assert (inside / path.relative_to(source / folder)).is_file(), path
    assert not (site / "configs").exists(), "other packages may use that name"

    def command(*arguments):
        return python(site / "bin" / "sentiment-jax", *arguments, cwd=empty, PYTHONPATH=site).stdout

    assert command("--version") == f"sentiment-jax {sentiment_jax.__version__}\n"
    assert "--config=lstm:sample" in command("--help")
    command("--config=lstm:sample", "--workdir=run", *runs.small_flags())
    assert "a good film" in command("--mode=predict", "--workdir=run", "--text=a good film")
    assert "wrote page/report.html" in command("--mode=report", "--workdir=run", "--output=page")
