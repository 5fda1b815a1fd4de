"""The command line: `python -m sentiment_jax.main`, or `sentiment-jax` where it is installed.

The only file with flags. Slow libraries are imported once the flags are known to be good.
"""

# isort: off
import os
import sys
from sentiment_jax.runtime import startup

COMMAND = "sentiment-jax"
if __name__ == "__main__" or os.path.basename(sys.argv[0]) == COMMAND:
    startup.tune_malloc()  # before the other imports: Python starts again
# isort: on
import errno
import importlib
import itertools
import math
import re
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from sentiment_jax import __version__
from sentiment_jax.config.recipes import call_recipe, check_names, describe_settings, read_recipe
from sentiment_jax.config.stored import flatten, run_name
from sentiment_jax.config.validation import validate
from sentiment_jax.errors import InputError, Interrupted, RunError, did_you_mean
from sentiment_jax.runtime import launch, processes, terminal
from sentiment_jax.sweeps.plan import sweep_fields

HELP = """\
Trains classifiers of reviews (BERT, ELECTRA, an LSTM) and judges texts with them.

  {command} --mode=MODE --name=value ...

modes
  train     train, or resume where --workdir stands, and test once at the end (the default)
  pretrain  learn from reviews without labels; --config.model.pretrained=RUN starts from the result
  evaluate  score a run again, on its test or validation reviews; also called eval or test
  predict   judge texts with a run
  export    write a run of BERT or ELECTRA as a folder for Hugging Face's transformers
  sweep     train many settings, choose by validation, test the best with several seeds
  report    compare runs and sweeps in tables, plots and one page

examples
  Train an LSTM on the embedded sample:
    {command} --config=lstm:sample --workdir=runs/sample
  Train on reviews of your own, a CSV file with the columns text and label:
    {command} --config=lstm:small --workdir=runs/mine \\
      --config.data.source=csv --config.data.path=reviews.csv
  Judge every row of a file:
    {command} --mode=predict --workdir=runs/mine --input=new.csv > verdicts.csv
  Try learning rates, and report what came of them:
    {command} --mode=sweep --config=lstm:sample --workdir=runs/rates \\
      --sweep_learning_rate=1e-3,3e-3
    {command} --mode=report --workdir=runs/rates --output=runs/rates-report
"""


class ConfigFile(flags.ArgumentParser):
    """Reads --config=NAME or FILE, or either with :VARIANT; what is wrong there is one line."""

    def parse(self, argument: str) -> ConfigDict:
        """Return the config, whose settings the command line's overrides name."""
        config = read_recipe(argument)
        given = flags.FLAGS.read_flags_from_files(sys.argv, force_gnu=False)
        overrides = (re.match(r"--?(?:no)?config\.([^=]*)", argument) for argument in given)
        check_names(config, (found[1] for found in overrides if found), "--config.{}")
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


NEEDED = {  # mode -> flags that it can't do without, and what they name
    "train": {"config": "lstm:sample or configs/lstm.py for example"},
    "pretrain": {"config": "bert:pretrain or configs/electra.py:pretrain for example"},
    "evaluate": {"workdir": "the directory of a finished run, or A,B,... for the mean"},
    "predict": {"workdir": "the directory of a finished run, or A,B,... for the mean"},
    "export": {"workdir": "the directory of a finished run", "output": "the folder to write"},
    "sweep": {"config": "lstm:sample for example", "workdir": "the sweep's directory"},
    "report": {"workdir": "the directories of runs, A,B,...", "output": "the folder to write"},
}
ALIASES = {"eval": "evaluate", "test": "evaluate"}
READ_AGAIN = ("eval_batch_size", "data.path", "data.test_path", "data.cache")  # by evaluate
# A help text begins with the modes that read the flag, if not all do: the others refuse it. What
# train reads, pretrain does too.
MODE = flags.DEFINE_enum("mode", "train", [*NEEDED, *ALIASES], "One of those above.")
CONFIG = config_flags.DEFINE_config_file(
    "config", None, "bert, electra, lstm or a file; any with :VARIANT. Its settings: --help."
)
flags.FLAGS["config"].parser = ConfigFile()
WORKDIR = flags.DEFINE_string(
    "workdir", None, "The run's directory; a sweep's stands for its winner."
)
SPLIT = flags.DEFINE_enum("split", "test", ("val", "test"), "evaluate: the split to score.")
TEXT = flags.DEFINE_multi_string("text", [], "predict: a review; repeatable.")
INPUT = flags.DEFINE_string("input", None, "predict: .csv, .tsv, .jsonl, a text per line, or -.")
TEXT_COLUMN = flags.DEFINE_string("text_column", None, "predict: the input's column, if not text.")
OUTPUT = flags.DEFINE_string("output", None, "export, report, predict: folder, table or page.")
CALIBRATED = flags.DEFINE_bool(
    "calibrated", False, "predict, evaluate: use the temperature fitted on validation."
)
FRESH = flags.DEFINE_bool("fresh", False, "train: start over in a used --workdir.")
TENSORBOARD = flags.DEFINE_bool(
    "tensorboard", False, "train: write the metrics for TensorBoard too (needs tensorboardX)."
)
ALLOW_CHANGES = flags.DEFINE_bool("allow_changes", False, "train: resume with another config.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "train: compile, print memory and FLOPs, stop.")
STOP_AFTER = flags.DEFINE(
    Duration(), "stop_after", None, "train, sweep: time until it saves and exits (143), 1h50m say."
)
SWEEP: dict[str, flags.FlagHolder] = {
    axis: flags.DEFINE_list(f"sweep_{axis}", None, f"sweep: {axis} to try instead of the config's.")
    for axis in ("optimizer", "batch_size", "learning_rate", "seeds")
}
FIELDS = [field for field in sweep_fields() if field not in SWEEP]
SWEEP |= {
    field: flags.DEFINE_list(
        f"sweep_{field}", None, "sweep: another setting's, --sweep_model.hidden_size=64,128 say."
    )
    for field in FIELDS
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
        known = [name for name in flags.FLAGS if name.removeprefix("sweep_") not in FIELDS]
        more = ("sweep_", FIELDS) if error.flagname.startswith("sweep_") else ("config.", settings)
        known += [more[0] + name for name in more[1]]
        near = did_you_mean(error.flagname, known, "--{}") or ": see --config=FILE --help"
        raise InputError(f"no flag --{error.flagname}{near}") from error
    except Exception as error:  # ml_collections raises what its parsers raise
        choices = re.search(r"=(.*): value should be one of <(.*)>", str(error))
        near = did_you_mean(choices[1], choices[2].split("|")) if choices else ""
        raise InputError(f"{str(error) or type(error).__name__}{near}") from error
    if len(rest) > 1:
        raise InputError(f"stray argument {rest[1]!r}; options are written --name=value")


def _describe(name: str) -> tuple[list[str], str]:
    """Return the modes that read a flag, none standing for all, and what it means."""
    text = re.sub("^<.*?>: ", "", flags.FLAGS[name].help)  # absl puts an enum's values there
    readers, _, rest = text.partition(": ")
    modes = re.sub(r"\btrain\b", "train, pretrain", readers).split(", ")
    return (modes, rest) if NEEDED.keys() >= {*modes} else ([], text)


def _help() -> str:
    """Return what --help prints: modes, examples, and the flags by the modes that read them."""
    called = os.path.basename(sys.argv[0]) == COMMAND
    text = HELP.format(command=COMMAND if called else "python -m sentiment_jax.main")
    groups: dict[tuple[str, ...], dict[str, str]] = {}
    for flag in flags.FLAGS.get_key_flags_for_module(sys.modules[__name__]):
        readers, meaning = _describe(flag.name)
        choices = () if flag.name == "mode" else getattr(flag.parser, "enum_values", ())
        values = " | ".join(choices)
        name = "sweep_SETTING" if flag.name.removeprefix("sweep_") in FIELDS else flag.name
        meaning = meaning.splitlines()[0].rstrip(".;") + f" ({values})" * bool(values)
        groups.setdefault(tuple(readers), {})[name] = meaning
    modes = ["", *NEEDED]
    for group in sorted(groups, key=lambda readers: min(map(modes.index, readers or [""]))):
        text += f"\n{', '.join(group) or 'every mode'}\n"
        text += "".join(f"  --{name:20} {groups[group][name]}\n" for name in groups[group])
    return text


def _check_flags(mode: str) -> None:
    """Raise InputError for a flag that the mode needs and lacks, or that it would ignore."""
    for name in flags.FLAGS:
        readers, _ = _describe(name)
        if flags.FLAGS[name].present and readers and mode not in readers:
            modes = " and ".join(f"--mode={reader}" for reader in readers)
            raise InputError(f"--{name} is a flag of {modes}: leave it out of --mode={mode}")
    for name, what in NEEDED[mode].items():
        if not flags.FLAGS[name].value:
            raise InputError(f"--mode={mode} needs --{name}, {what}")
    if mode == "predict" and bool(TEXT.value) == (INPUT.value is not None):
        raise InputError("--mode=predict needs --text (repeatable) or --input=FILE, not both")
    if TEXT_COLUMN.value is not None and INPUT.value is None:
        raise InputError("--text_column names a column of --input=FILE")
    if bool(JOBS.value) != (LAUNCHER.value == "slurm") or (SBATCH.value and not JOBS.value):
        raise InputError("--launcher=slurm and --jobs=N go together; --sbatch is for them")
    if JOBS.value and ONLY.value:
        raise InputError("--only names one share: leave it out, --jobs share all runs")


def dispatch() -> None:
    """Run the mode that the flags ask for."""
    mode, config = ALIASES.get(MODE.value, MODE.value), CONFIG.value
    _check_flags(mode)
    group = launch.find_process_group(COORDINATOR.value, PROCESS_ID.value, PROCESS_COUNT.value)
    if group is not None and not launch.follow_parent():
        sys.exit(launch.run_child(group, LOST_AFTER.value))
    if config is not None:
        validate(config, pretraining=mode == "pretrain")
    kind = "pretrain-" if mode == "pretrain" else ""
    workdir = Path(WORKDIR.value or f"runs/{kind}{run_name(config)}")
    changes = config_flags.get_override_values(flags.FLAGS["config"]) if config else {}
    several = mode in ("evaluate", "predict", "report") and not workdir.is_dir()
    workdirs = [*map(Path, str(workdir).split(","))] if several else [workdir]
    if mode not in ("train", "pretrain", "sweep"):
        workdirs, config = _find_runs(workdirs, mode, changes)
    with terminal.progress_bar(None, "starting"):
        startup.start(config, group, LOST_AFTER.value)
        module = importlib.import_module(f"sentiment_jax.modes.{mode}")
    if mode in ("train", "pretrain") and DRY_RUN.value:
        module.dry_run(config)
    elif mode in ("train", "pretrain"):
        from sentiment_jax.training.signals import Stop

        with Stop(STOP_AFTER.value) as stop:
            options = {"fresh": FRESH.value, "allow_changes": ALLOW_CHANGES.value}
            begin = getattr(module, mode)
            begin(config, workdir, **options, stop=stop, tensorboard=TENSORBOARD.value)
    elif mode == "evaluate" and (CALIBRATED.value or len(workdirs) > 1):
        module.evaluate_ensemble(workdirs, SPLIT.value, changes, calibrated=CALIBRATED.value)
    elif mode == "evaluate":
        module.evaluate_run(workdirs[0], SPLIT.value, changes)
    elif mode == "predict":
        _predict(module, workdirs)
    elif mode == "export":
        _export(module, workdirs[0])
    elif mode == "sweep":
        _sweep(module, workdir)
    else:
        module.report(workdirs, Path(OUTPUT.value or ""), WITH_TEXT.value)


def _find_runs(
    workdirs: list[Path], mode: str, changes: dict[str, Any]
) -> tuple[list[Path], ConfigDict | None]:
    """Return the runs that --workdir stands for, and their config with what evaluate may change.

    Of several runs it is the first one's, with as many CPU devices as all can use.
    """
    from sentiment_jax.storage.run_directory import RunDirectory
    from sentiment_jax.sweeps.plan import find_run

    allowed = READ_AGAIN if mode == "evaluate" else ()
    if fixed := [name for name in changes if name not in allowed]:
        may = f"may change {', '.join(allowed)}" if allowed else "takes no setting"
        raise InputError(f"--config.{fixed[0]}: a run keeps its config; --mode={mode} {may}")
    if mode != "report":  # which shows a sweep whole
        workdirs = [*map(find_run, workdirs)]
    directories = map(RunDirectory, workdirs)
    configs = [directory.read_config() for directory in directories if directory.config.exists()]
    for config in configs:
        config.update_from_flattened_dict(changes)
    if len(configs) > 1:
        sizes = ((c.get("cpu_devices", 1), c.batch_size, c.eval_batch_size) for c in configs)
        configs[0].cpu_devices = math.gcd(*itertools.chain(*sizes))
    return workdirs, configs[0] if configs else None


def _predict(predict: Any, workdirs: Sequence[Path]) -> None:
    from sentiment_jax.training.trained_model import load_ensemble

    if EXPLAIN.value and (len(workdirs) > 1 or CALIBRATED.value):
        raise InputError("--explain takes one run as it is: no other --workdir, no --calibrated")
    if isinstance(sys.stdout, terminal.Unbreakable):
        sys.stdout.strict = True
    if EXPLAIN.value and not (OUTPUT.value or ".html").endswith(".html"):
        raise InputError(f"--output={OUTPUT.value}: --explain writes a page, end its name in .html")
    output, to_file = Path(OUTPUT.value or ""), OUTPUT.value is not None and not EXPLAIN.value
    if to_file:
        predict.check_output(output, INPUT.value)
    trained = load_ensemble(workdirs, calibrated=CALIBRATED.value)
    if INPUT.value is not None:
        column = TEXT_COLUMN.value or trained.config.data.text_column
        options = {"otherwise": ","} if TEXT_COLUMN.value else {}
        table = predict.read_input(INPUT.value, column, whole=to_file, **options)
    else:
        table = predict.Table.from_texts(TEXT.value)
    if EXPLAIN.value:
        from sentiment_jax.modes.explain import explain_texts

        page = output if OUTPUT.value else workdirs[0] / "explanation.html"
        explain_texts(trained, list(map(str, table.rows)), [t for (t,) in table.texts], page)
    elif INPUT.value is not None or to_file:
        predict.predict_table(trained, table, output if to_file else None)
    else:
        predict.print_predictions(trained, TEXT.value)
    sys.stdout.flush()  # a full disk is found out here


def _export(export: Any, workdir: Path) -> None:
    from sentiment_jax.training.trained_model import load_run

    folder = Path(OUTPUT.value or "")
    opener = export.export_run(load_run(workdir, classifies=False), workdir, folder)
    print(f"wrote {folder}: open it with transformers' {opener}")


def _sweep(sweep: Any, workdir: Path) -> None:
    if WORKERS.value > 1:  # each process would take three quarters of a GPU's memory
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{0.9 / WORKERS.value:.2f}")
    config_file = config_flags.get_config_filename(flags.FLAGS["config"])
    given = {axis: flag.value for axis, flag in SWEEP.items() if flag.value is not None}
    sweep.sweep(
        CONFIG.value,
        workdir,
        call_recipe(config_file, "get_sweep") | given,
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
    if "--version" in arguments[1:]:
        print(f"{COMMAND} {__version__}")
        return 0
    try:
        parse([argument for argument in arguments if argument not in asked])
        if asked:
            if CONFIG.value is None:
                print(_help(), end="")
            else:
                file = config_flags.get_config_filename(flags.FLAGS["config"])
                print(f"Settings of {file}: flag, value, meaning (what is allowed)\n")
                print(describe_settings(CONFIG.value))
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
        processes.wait_for_coordinator(error)
        traceback.print_exc()
        return processes.shutdown(1)
    return processes.shutdown(0)


def _fail(message: Any, code: int) -> int:
    text = " ".join(str(message).split())
    print(text if code == 143 else f"error: {text}", file=sys.stderr)
    return processes.shutdown(code)


def run() -> int:
    """Do what `main` does as a program of its own."""
    terminal.protect_output()
    return main()


if __name__ == "__main__":
    sys.exit(run())
