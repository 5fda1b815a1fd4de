"""The command line: `python -m sentiment_jax.main --config=configs/lstm.py --workdir=runs/lstm`.

The only file with flags. Slow libraries are imported once the flags are known to be good.
"""

import difflib
import errno
import importlib.util
import math
import os
import re
import sys
import traceback
from pathlib import Path
from typing import Any

from absl import flags, logging
from ml_collections import config_flags

from sentiment_jax.errors import InputError, Interrupted, RunError
from sentiment_jax.runtime import launch, processes, startup, terminal

MODES = ("train", "evaluate", "predict", "export", "sweep", "report")
AXES = ("optimizer", "batch_size", "learning_rate", "seeds")
CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file, with :variant where it has one; train."
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Run directory; train names one where none is given."
)
MODE = flags.DEFINE_enum("mode", "train", MODES, "What to do.")
SPLIT = flags.DEFINE_enum("split", "test", ("val", "test"), "evaluate: the split to score.")
TEXT = flags.DEFINE_multi_string("text", [], "predict: a review; repeatable.")
INPUT = flags.DEFINE_string("input", None, "predict: a .csv, a text file (a review a line), or -.")
OUTPUT = flags.DEFINE_string(
    "output", None, "export, report: the folder to write; predict --explain: the HTML file."
)
FRESH = flags.DEFINE_bool("fresh", False, "train: start over in a used --workdir.")
ALLOW_CHANGES = flags.DEFINE_bool(
    "allow_changes", False, "train: resume although the config differs; recorded in env.json."
)
SWEEP = {
    axis: flags.DEFINE_list(f"sweep_{axis}", None, f"sweep: {axis} to try instead of the config's.")
    for axis in AXES
}
PROCEDURE = flags.DEFINE_enum(
    "sweep_procedure", None, ("grid", "stages"), "sweep: every combination, or one axis at a time."
)
WORKERS = flags.DEFINE_integer("workers", 1, "sweep: processes to use.", lower_bound=1)
ONLY = flags.DEFINE_string("only", None, "sweep: i/n, every n-th run from the i-th (SLURM arrays).")
RETRY_FAILED = flags.DEFINE_bool("retry_failed", False, "sweep: try the failed runs again.")
EXPLAIN = flags.DEFINE_bool("explain", False, "predict: show the words that pushed the verdict.")
WITH_TEXT = flags.DEFINE_bool("with_text", False, "report: show the text of the worst mistakes.")
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "Several processes: HOST:PORT of process 0, or auto (SLURM, Open MPI)."
)
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this process, from 0.")
PROCESS_COUNT = flags.DEFINE_integer("process_count", None, "How many processes there are.")
LOST_AFTER = flags.DEFINE_integer(
    "lost_after", 60, "Seconds of silence after which a process counts as lost.", lower_bound=5
)


def parse(arguments: list[str]) -> None:
    """Parses the command line.

    Raises:
      InputError: unknown flag or field (with the nearest name), bad value, stray argument.
    """
    try:
        rest = flags.FLAGS(arguments)
        if CONFIG.value is not None:
            CONFIG.value.items()  # a file that could not be loaded says so only when touched
    except Exception as error:  # ml_collections raises what its parsers raise
        raise InputError(_one_line(error)) from error
    if len(rest) > 1:
        raise InputError(f"stray argument {rest[1]!r}; options are written --name=value")


def _one_line(error: Exception) -> str:
    if isinstance(error, flags.UnrecognizedFlagError):
        near = difflib.get_close_matches(error.flagname, list(flags.FLAGS), n=1)
        return f"unknown flag --{error.flagname}" + (f"; did you mean --{near[0]}?" if near else "")
    text = re.sub(r"\s+", " ", str(error)).strip()
    if isinstance(error, FileNotFoundError):
        return f"--config: no such file ({text})"
    return text or type(error).__name__


def dispatch() -> None:
    """Runs the mode that the flags ask for."""
    # What Orbax, TFDS and transformers have to say is nothing a user can act on.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.set_verbosity(logging.ERROR)
    group = launch.find_process_group(COORDINATOR.value, PROCESS_ID.value, PROCESS_COUNT.value)
    if group is not None and MODE.value not in ("train", "evaluate"):
        raise InputError(f"--mode={MODE.value} is for one process: leave --coordinator out")
    if group is not None and not launch.follow_parent():
        sys.exit(launch.run_child(group, LOST_AFTER.value))
    if MODE.value == "train":
        if CONFIG.value is None:
            raise InputError("--config is missing: --config=configs/lstm.py, for example")
        from sentiment_jax import train
        from sentiment_jax.config import run_name, validate

        validate(CONFIG.value)
        _start(CONFIG.value, group)
        train.train(
            CONFIG.value,
            Path(WORKDIR.value or f"runs/{run_name(CONFIG.value)}"),
            fresh=FRESH.value,
            allow_changes=ALLOW_CHANGES.value,
        )
        return
    if WORKDIR.value is None:
        needed = {"sweep": "the sweep's directory", "report": "the directories of runs, A,B,..."}
        what = needed.get(MODE.value, "the directory of a finished run")
        raise InputError(f"--mode={MODE.value} needs --workdir, {what}")
    workdir = Path(WORKDIR.value)
    _start(_run_config(workdir), group)
    if MODE.value == "evaluate":
        from sentiment_jax.evaluate import evaluate_run

        evaluate_run(workdir, SPLIT.value)
    elif MODE.value == "predict":
        _predict(workdir)
    elif MODE.value == "sweep":
        _sweep(workdir)
    elif MODE.value == "report":
        _report(WORKDIR.value.split(","))
    else:
        _export(workdir)


def _run_config(workdir: Path) -> Any:
    """The config that says how to start JAX: the command line's, a run's, or none."""
    from sentiment_jax.storage.run_directory import RunDirectory

    directory = RunDirectory(workdir)
    if CONFIG.value is None and directory.config.exists():
        return directory.read_config()
    return CONFIG.value


def _start(config: Any, group: launch.ProcessGroup | None) -> None:
    """Starts JAX: its devices, its cache, and the other processes where there are any."""
    startup.use_wide_vectors()
    if group is not None:
        launch.connect(group, LOST_AFTER.value)
    elif config is not None and "cpu_devices" in config:
        sizes = config.batch_size, config.eval_batch_size
        startup.use_cpu_devices(math.gcd(config.cpu_devices, *sizes))
    startup.use_compilation_cache()


def _predict(workdir: Path) -> None:
    if bool(TEXT.value) == (INPUT.value is not None):
        raise InputError("--mode=predict needs --text (repeatable) or --input=FILE, not both")
    from sentiment_jax import predict
    from sentiment_jax.training.experiment import load_run

    if isinstance(sys.stdout, terminal.Unbreakable):
        sys.stdout.strict = True
    trained = load_run(workdir)
    if EXPLAIN.value:
        from sentiment_jax.explain import explain_texts

        names, texts = [str(row + 1) for row in range(len(TEXT.value))], TEXT.value
        if INPUT.value is not None:
            names, texts = predict.read_input(INPUT.value, trained.config.data.text_column)
        explain_texts(trained, names, texts, Path(OUTPUT.value or workdir / "explanation.html"))
    elif TEXT.value:
        predict.print_verdicts(trained, TEXT.value)
    elif INPUT.value is not None:
        predict.predict_input(trained, INPUT.value)
    sys.stdout.flush()  # a full disk is found out here


def _sweep(workdir: Path) -> None:
    if CONFIG.value is None:
        raise InputError("--config is missing: --config=configs/lstm.py, for example")
    if FRESH.value:
        raise InputError(f"--fresh is for one run: delete {workdir}, or name another --workdir")
    if WORKERS.value > 1:  # each process would take three quarters of a GPU's memory
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{0.9 / WORKERS.value:.2f}")
    from sentiment_jax import sweep
    from sentiment_jax.config import validate

    validate(CONFIG.value)
    axes = _config_sweep() | {
        axis: flag.value for axis, flag in SWEEP.items() if flag.value is not None
    }
    if PROCEDURE.value is not None:
        axes["procedure"] = PROCEDURE.value
    sweep.sweep(
        CONFIG.value,
        workdir,
        axes,
        config_file=config_flags.get_config_filename(flags.FLAGS["config"]),
        overrides=config_flags.get_override_values(flags.FLAGS["config"]),
        only=ONLY.value,
        workers=WORKERS.value,
        retry_failed=RETRY_FAILED.value,
    )


def _config_sweep() -> dict[str, Any]:
    """What get_sweep(variant) of the config file returns."""
    file, _, variant = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    spec = importlib.util.spec_from_file_location("sweep_config", file)
    assert spec is not None and spec.loader is not None  # the flag read the same file
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_sweep"):
        raise InputError(f"{file} has no get_sweep(variant): configs/lstm.py shows one")
    return dict(module.get_sweep(variant))


def _report(directories: list[str]) -> None:
    if OUTPUT.value is None:
        raise InputError("--mode=report needs --output, the folder to write")
    from sentiment_jax import report

    report.report([Path(name) for name in directories], Path(OUTPUT.value), WITH_TEXT.value)


def _export(workdir: Path) -> None:
    if OUTPUT.value is None:
        raise InputError("--mode=export needs --output, the folder to write")
    from sentiment_jax import export
    from sentiment_jax.training.experiment import load_run

    trained = load_run(workdir)
    if trained.config.model.name == "lstm":
        raise InputError(f"{workdir} holds an lstm: only bert and electra have a Hugging Face form")
    export.export_pretrained(
        Path(OUTPUT.value), trained.model.config, trained.params, trained.tokenizer
    )
    print(f"wrote {OUTPUT.value}: open it with transformers' AutoModelForSequenceClassification")


def main(arguments: list[str] | None = None) -> int:
    """Parses, dispatches, and turns the expected errors into one line and an exit code."""
    arguments = sys.argv if arguments is None else arguments
    asked = {"--help", "-h"} & set(arguments[1:])
    try:
        parse([argument for argument in arguments if argument not in asked])
        if asked:
            return _help()
        dispatch()
        processes.barrier()
    except InputError as error:
        return _fail(error, 2)
    except RunError as error:
        return _fail(error, 1)
    except Interrupted as error:
        return _fail(error, 143)
    except KeyboardInterrupt:
        return _fail("interrupted", 143)
    except Exception as error:
        # From an OSError, or from whatever Orbax makes of one.
        if os.strerror(errno.ENOSPC) in str(error):
            return _fail(f"disk full: {error}; free some space, run the same command again", 1)
        if processes.count() == 1:
            raise
        processes.await_loss(error)
        traceback.print_exc()
        return processes.leave(1)
    return processes.leave(0)


def _help() -> int:
    """Print the flags; with --config, every setting of it."""
    print(__doc__ + flags.FLAGS.main_module_help())
    if CONFIG.value is not None:
        from sentiment_jax.config import describe_settings

        print("Settings of this config:\n" + describe_settings(CONFIG.value))
    return 0


def _fail(message: Any, code: int) -> int:
    text = " ".join(str(message).split())
    print(text if code == 143 else f"error: {text}", file=sys.stderr)
    return processes.leave(code)


if __name__ == "__main__":
    startup.tune_malloc()
    terminal.protect_output()
    sys.exit(main())
