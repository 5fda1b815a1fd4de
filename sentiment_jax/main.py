"""The command line: `python -m sentiment_jax.main --config=configs/lstm.py --workdir=runs/lstm`.

The only file with flags. Slow libraries are imported once the flags are known to be good.
"""

# isort: off
from sentiment_jax.runtime import startup

if __name__ == "__main__":
    startup.tune_malloc()  # before the other imports: Python starts again
# isort: on
import errno
import importlib
import math
import os
import re
import runpy
import sys
import traceback
from pathlib import Path
from typing import Any

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from sentiment_jax.config import describe_settings, flatten, run_name, validate
from sentiment_jax.errors import InputError, Interrupted, RunError, did_you_mean
from sentiment_jax.runtime import launch, processes, terminal


class ConfigFile(flags.ArgumentParser):
    """Reads --config=FILE or FILE:VARIANT; what is wrong there or in an override is one line."""

    def parse(self, argument: str) -> ConfigDict:
        """Return the config that the file makes."""
        config = _call(argument, "get_config")
        if not isinstance(config, ConfigDict):
            raise InputError(f"{argument}: get_config() must return what make_config() makes")
        known = flatten(config)
        for given in flags.FLAGS.read_flags_from_files(sys.argv, force_gnu=False):
            override = re.match(r"--?(?:no)?config\.([^=]*)", given)
            if override and override[1] not in known:
                near = did_you_mean(override[1], known, "--config.{}")
                raise InputError(f"no setting --config.{override[1]}{near or ': see --help'}")
        return config.lock()


class Duration(flags.ArgumentParser):
    """Reads 1h50m, 90m or 45s as seconds."""

    def parse(self, argument: str) -> float:
        """Return the seconds."""
        match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", argument)
        if not argument or not match:
            raise ValueError("write 1h50m, 90m or 45s")
        hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return 60.0 * (60 * hours + minutes) + seconds


def _call(config_file: str, function: str) -> Any:
    """Call a function of FILE or FILE:VARIANT; an InputError names the line that raised."""
    file, _, variant = config_file.partition(":")
    if not Path(file).is_file():
        known = [path.stem for path in Path(file).parent.glob("*.py")]
        raise InputError(f"no config file {file!r}{did_you_mean(Path(file).stem, known)}")
    try:
        recipe = runpy.run_path(file)
        if function not in recipe:
            raise InputError(f"{file} has no {function}(variant): configs/lstm.py shows one")
        return recipe[function](*filter(None, [variant]))
    except InputError:
        raise
    except Exception as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
        line = lines[-1] if lines else getattr(error, "lineno", 1)
        raise InputError(f"{file}, line {line}: {type(error).__name__}: {error}") from error


NEEDED = {  # mode -> flags that it can't do without, and what they name
    "train": {"config": "configs/lstm.py for example"},
    "evaluate": {"workdir": "the directory of a finished run"},
    "predict": {"workdir": "the directory of a finished run"},
    "export": {"workdir": "the directory of a finished run", "output": "the folder to write"},
    "sweep": {"config": "configs/lstm.py for example", "workdir": "the sweep's directory"},
    "report": {"workdir": "the directories of runs, A,B,...", "output": "the folder to write"},
}
READ_AGAIN = ("eval_batch_size", "data.path", "data.test_path", "data.cache")  # by evaluate
# A help text begins with the modes that read the flag, if not all do: the others refuse it.
CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, or FILE:VARIANT.")
flags.FLAGS["config"].parser = ConfigFile()
WORKDIR = flags.DEFINE_string("workdir", None, "Run directory; train can name one itself.")
MODE = flags.DEFINE_enum("mode", "train", list(NEEDED), "What to do.")
SPLIT = flags.DEFINE_enum("split", "test", ("val", "test"), "evaluate: the split to score.")
TEXT = flags.DEFINE_multi_string("text", [], "predict: a review; repeatable.")
INPUT = flags.DEFINE_string("input", None, "predict: .csv, .tsv, a text per line, or -.")
OUTPUT = flags.DEFINE_string("output", None, "export, report, predict: folder (--explain: page).")
FRESH = flags.DEFINE_bool("fresh", False, "train: start over in a used --workdir.")
ALLOW_CHANGES = flags.DEFINE_bool("allow_changes", False, "train: resume with another config.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "train: compile, print memory and FLOPs, stop.")
STOP_AFTER = flags.DEFINE(
    Duration(), "stop_after", None, "train, sweep: time until it saves and exits (143), 1h50m say."
)
SWEEP: dict[str, flags.FlagHolder] = {
    axis: flags.DEFINE_list(f"sweep_{axis}", None, f"sweep: {axis} to try instead of the config's.")
    for axis in ("optimizer", "batch_size", "learning_rate", "seeds")
}
SWEEP["procedure"] = flags.DEFINE_enum(
    "sweep_procedure", None, ("grid", "stages"), "sweep: every combination, or one axis at a time."
)
WORKERS = flags.DEFINE_integer("workers", 1, "sweep: processes to use.", 1, 256)
LAUNCHER = flags.DEFINE_enum(
    "launcher", "local", ("local", "slurm"), "sweep: --workers here, or --jobs of a job array."
)
JOBS = flags.DEFINE_integer("jobs", 0, "sweep: SLURM jobs to submit.", 0, 10000)
SBATCH = flags.DEFINE_string("sbatch", "", "sweep: options of sbatch, --gres=gpu:1 say.")
ONLY = flags.DEFINE_string("only", None, "sweep: i/n, every n-th run from the i-th (SLURM arrays).")
RETRY_FAILED = flags.DEFINE_bool("retry_failed", False, "sweep: try the failed runs again.")
EXPLAIN = flags.DEFINE_bool("explain", False, "predict: show the words that pushed the verdict.")
WITH_TEXT = flags.DEFINE_bool("with_text", False, "report: show the text of the worst mistakes.")
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "train, evaluate: HOST:PORT of process 0, or auto (SLURM, Open MPI)."
)
PROCESS_ID = flags.DEFINE_integer("process_id", None, "train, evaluate: this process, from 0.")
PROCESS_COUNT = flags.DEFINE_integer("process_count", None, "train, evaluate: how many processes.")
LOST_AFTER = flags.DEFINE_integer("lost_after", 60, "train, evaluate: longest silence, seconds.", 5)


def parse(arguments: list[str]) -> None:
    """Parse the command line; InputError for unknown names, bad values and stray arguments."""
    try:
        rest = flags.FLAGS(arguments)
    except flags.UnrecognizedFlagError as error:
        settings = flatten(flags.FLAGS["config"].value or {})
        known = [*flags.FLAGS, *(f"config.{name}" for name in settings)]
        near = did_you_mean(error.flagname, known, "--{}") or ": see --config=FILE --help"
        raise InputError(f"no flag --{error.flagname}{near}") from error
    except Exception as error:  # ml_collections raises what its parsers raise
        choices = re.search(r"=(.*): value should be one of <(.*)>", str(error))
        near = did_you_mean(choices[1], choices[2].split("|")) if choices else ""
        raise InputError(f"{str(error) or type(error).__name__}{near}") from error
    if len(rest) > 1:
        raise InputError(f"stray argument {rest[1]!r}; options are written --name=value")


def _check_flags(mode: str) -> None:
    """Raise InputError for a flag that the mode needs and lacks, or that it would ignore."""
    for name in flags.FLAGS:
        text = re.sub("^<.*?>: ", "", flags.FLAGS[name].help)  # absl puts an enum's values there
        readers = text.partition(":")[0].split(", ")
        if flags.FLAGS[name].present and NEEDED.keys() >= {*readers} and mode not in readers:
            modes = " and ".join(f"--mode={reader}" for reader in readers)
            raise InputError(f"--{name} is a flag of {modes}: leave it out of --mode={mode}")
    for name, what in NEEDED[mode].items():
        if not flags.FLAGS[name].value:
            raise InputError(f"--mode={mode} needs --{name}, {what}")
    if mode == "predict" and bool(TEXT.value) == (INPUT.value is not None):
        raise InputError("--mode=predict needs --text (repeatable) or --input=FILE, not both")
    if mode == "predict" and OUTPUT.value is not None and not EXPLAIN.value:
        raise InputError("--output is --explain's page; verdicts go to stdout: use > FILE")
    if bool(JOBS.value) != (LAUNCHER.value == "slurm") or (SBATCH.value and not JOBS.value):
        raise InputError("--launcher=slurm and --jobs=N go together; --sbatch is for them")
    if JOBS.value and ONLY.value:
        raise InputError("--only names one share: leave it out, --jobs share all runs")


def dispatch() -> None:
    """Run the mode that the flags ask for."""
    # What Orbax, TFDS and transformers have to say is nothing a user can act on.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.set_verbosity(logging.ERROR)
    mode, config = MODE.value, CONFIG.value
    _check_flags(mode)
    group = launch.find_process_group(COORDINATOR.value, PROCESS_ID.value, PROCESS_COUNT.value)
    if group is not None and not launch.follow_parent():
        sys.exit(launch.run_child(group, LOST_AFTER.value))
    if config is not None:
        validate(config)
    workdir = Path(WORKDIR.value or f"runs/{run_name(config)}")
    output = Path(OUTPUT.value or workdir / "explanation.html")
    changes = config_flags.get_override_values(flags.FLAGS["config"]) if config else {}
    if mode not in ("train", "sweep"):
        config = _read_run_config(workdir, mode, changes)
    _start(config, group)
    module = importlib.import_module(f"sentiment_jax.{mode}")
    if mode == "train" and DRY_RUN.value:
        module.dry_run(config)
    elif mode == "train":
        from sentiment_jax.training.signals import Stop

        with Stop(STOP_AFTER.value) as stop:
            options = {"fresh": FRESH.value, "allow_changes": ALLOW_CHANGES.value}
            module.train(config, workdir, **options, stop=stop)
    elif mode == "evaluate":
        module.evaluate_run(workdir, SPLIT.value, changes)
    elif mode == "predict":
        _predict(module, workdir, output)
    elif mode == "export":
        _export(module, workdir, output)
    elif mode == "sweep":
        _sweep(module, workdir)
    else:
        names = [workdir] if workdir.is_dir() else map(Path, str(workdir).split(","))
        module.report(list(names), output, WITH_TEXT.value)


def _read_run_config(workdir: Path, mode: str, changes: dict[str, Any]) -> ConfigDict | None:
    """Return the config that a run keeps, with what evaluate may change; None if there is none."""
    from sentiment_jax.storage.run_directory import RunDirectory

    allowed = READ_AGAIN if mode == "evaluate" else ()
    if fixed := [name for name in changes if name not in allowed]:
        may = f"may change {', '.join(allowed)}" if allowed else "takes no setting"
        raise InputError(f"--config.{fixed[0]}: a run keeps its config; --mode={mode} {may}")
    if not RunDirectory(workdir).config.exists():
        return None
    config = RunDirectory(workdir).read_config()
    config.update_from_flattened_dict(changes)
    return config


def _start(config: Any, group: launch.ProcessGroup | None) -> None:
    """Start JAX: its devices, its cache, and the other processes where there are any."""
    startup.use_wide_vectors()
    if config is not None and config.deterministic:
        startup.use_deterministic_kernels()
    if group is not None:
        launch.connect(group, LOST_AFTER.value)
    elif config is not None:
        sizes = config.batch_size // config.gradient_accumulation, config.eval_batch_size
        startup.use_cpu_devices(math.gcd(config.cpu_devices, *sizes))
    startup.use_compilation_cache()


def _predict(predict: Any, workdir: Path, page: Path) -> None:
    from sentiment_jax.training.experiment import load_run

    if isinstance(sys.stdout, terminal.Unbreakable):
        sys.stdout.strict = True
    trained = load_run(workdir)
    if EXPLAIN.value:
        from sentiment_jax.explain import explain_texts

        names, texts = [str(row + 1) for row in range(len(TEXT.value))], TEXT.value
        if INPUT.value is not None:
            names, texts = predict.read_input(INPUT.value, trained.config.data.text_column)
        explain_texts(trained, names, texts, page)
    elif INPUT.value is not None:
        predict.predict_input(trained, INPUT.value)
    else:
        predict.print_verdicts(trained, TEXT.value)
    sys.stdout.flush()  # a full disk is found out here


def _export(export: Any, workdir: Path, folder: Path) -> None:
    from sentiment_jax.training.experiment import load_run

    run = load_run(workdir)
    if run.config.model.name == "lstm":
        raise InputError(f"{workdir} holds an lstm: only bert and electra have a Hugging Face form")
    export.export_pretrained(folder, run.model.config, run.params, run.tokenizer, run.classes)
    print(f"wrote {folder}: open it with transformers' AutoModelForSequenceClassification")


def _sweep(sweep: Any, workdir: Path) -> None:
    if WORKERS.value > 1:  # each process would take three quarters of a GPU's memory
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{0.9 / WORKERS.value:.2f}")
    config_file = config_flags.get_config_filename(flags.FLAGS["config"])
    given = {axis: flag.value for axis, flag in SWEEP.items() if flag.value is not None}
    sweep.sweep(
        CONFIG.value,
        workdir,
        _call(config_file, "get_sweep") | given,
        config_file=config_file,
        overrides=config_flags.get_override_values(flags.FLAGS["config"]),
        only=ONLY.value,
        workers=WORKERS.value,
        retry_failed=RETRY_FAILED.value,
        stop_after=STOP_AFTER.value,
        jobs=JOBS.value,
        sbatch=SBATCH.value,
    )


def main(arguments: list[str] | None = None) -> int:
    """Parse, dispatch, and turn the expected errors into one line and an exit code."""
    arguments = sys.argv if arguments is None else arguments
    asked = {"--help", "-h"} & set(arguments[1:])
    try:
        parse([argument for argument in arguments if argument not in asked])
        if asked:
            print(__doc__ + flags.FLAGS.main_module_help())
            if CONFIG.value is not None:
                print("Settings of this config:\n" + describe_settings(CONFIG.value))
            return 0
        dispatch()
        processes.barrier()
    except (InputError, RunError) as error:
        return _fail(error, 2 if isinstance(error, InputError) else 1)
    except (Interrupted, KeyboardInterrupt) as error:
        return _fail(str(error) or "interrupted", 143)
    except Exception as error:
        # From an OSError, or from whatever Orbax makes of one.
        if os.strerror(errno.ENOSPC) in str(error):
            return _fail(f"disk full: {error}; free some space, run the same command again", 1)
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            reason = (str(error).splitlines() or ["no more to be had"])[0]
            return _fail(f"out of memory: {reason}; lower batch_size or data.max_length", 1)
        if processes.count() == 1:
            raise
        processes.await_loss(error)
        traceback.print_exc()
        return processes.leave(1)
    return processes.leave(0)


def _fail(message: Any, code: int) -> int:
    text = " ".join(str(message).split())
    print(text if code == 143 else f"error: {text}", file=sys.stderr)
    return processes.leave(code)


if __name__ == "__main__":
    terminal.protect_output()
    sys.exit(main())
