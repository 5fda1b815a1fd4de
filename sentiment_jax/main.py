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
import importlib
import re
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from sentiment_jax import __version__
from sentiment_jax.config import recipes
from sentiment_jax.config.schema import PROCEDURES, sweep_fields
from sentiment_jax.config.stored import flatten, replace_settings, run_name
from sentiment_jax.config.validation import validate
from sentiment_jax.errors import (
    InputError,
    Interrupted,
    RunError,
    describe_path,
    describe_shortage,
    did_you_mean,
)
from sentiment_jax.runtime import launch, processes, terminal

HELP = """\
Trains text classifiers (BERT, ELECTRA, an LSTM, n-grams) and classifies texts with them.

  python -m sentiment_jax.main --mode=MODE --name=value ...

modes
  train     train, or resume in --workdir, and test once at the end (the default)
  pretrain  learn from unlabeled text; --config.model.pretrained=RUN starts from the result
  evaluate  score a run again, on its test or validation texts, or on a labeled table
  predict   classify texts with a run
  export    write a run as a folder for Hugging Face's transformers, or as ONNX files
  compare   train the recipes for texts of your own on the same splits, test the one to use
  sweep     train many settings, choose by validation, test the best with several seeds
  report    compare runs and sweeps in tables, plots and one page

examples
  Train an LSTM on the embedded sample:
    python -m sentiment_jax.main --config=lstm:sample --workdir=runs/sample
  Classify every row of a file:
    python -m sentiment_jax.main --mode=predict --workdir=runs/sample --input=new.csv > out.csv
"""


class ConfigFile(flags.ArgumentParser):
    """Reads --config=NAME or FILE, or either with :VARIANT; an error is one line."""

    def parse(self, argument: str) -> ConfigDict:
        """Return the config, after a check of the settings that the command line overrides."""
        config = recipes.read_recipe(argument)
        given = flags.FLAGS.read_flags_from_files(sys.argv, force_gnu=False)
        overrides = (re.match(r"--?(?:no)?config\.([^=]*)", argument) for argument in given)
        recipes.check_names(config, (found[1] for found in overrides if found), "--config.{}")
        return config.lock()


NEEDED = {  # mode -> the flags that it requires, and what they name
    "train": {"config": "lstm:sample or configs/lstm.py for example"},
    "pretrain": {"config": "bert:pretrain or configs/electra.py:pretrain for example"},
    "evaluate": {"workdir": "the directory of a finished run, or A,B,... for an ensemble"},
    "predict": {"workdir": "the directory of a finished run, or A,B,... for an ensemble"},
    "export": {"workdir": "the directory of a finished run", "output": "the folder to write"},
    "compare": {"workdir": "the directory for its runs"},
    "sweep": {"config": "lstm:sample for example", "workdir": "the sweep's directory"},
    "report": {"workdir": "the directories of runs, A,B,...", "output": "the folder to write"},
}

MODE = flags.DEFINE_enum("mode", "train", [*NEEDED], "see above")
CONFIG = config_flags.DEFINE_config_file(
    "config", None, "encoder, linear, lstm, bert, ... or a file, and :VARIANT; settings: --help"
)
flags.FLAGS["config"].parser = ConfigFile()
WORKDIR = flags.DEFINE_string("workdir", None, "the run's directory; a sweep's: its winner's")
FRESH = flags.DEFINE_bool("fresh", False, "start over in a used --workdir")
TENSORBOARD = flags.DEFINE_bool("tensorboard", False, "write metrics for TensorBoard, too")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "compile, print memory and time, stop")
STOP_AFTER = flags.DEFINE_float("stop_after", None, "seconds until it saves and exits (143)", 0)
COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, or auto (SLURM)")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "this process, from 0")
PROCESS_COUNT = flags.DEFINE_integer("process_count", None, "how many processes")
LOST_AFTER = flags.DEFINE_integer("lost_after", 60, "longest silence, seconds", 5)
CHOOSE_BY = flags.DEFINE_string("choose_by", "", "metric; empty: by how even the classes are")
SPLIT = flags.DEFINE_enum("split", "test", ["val", "test"], "the split to score")
CALIBRATED = flags.DEFINE_bool("calibrated", False, "use the temperature fitted on validation")
TEXT = flags.DEFINE_multi_string("text", [], "a text; repeatable")
INPUT = flags.DEFINE_string("input", None, ".csv, .tsv, .jsonl, a text per line, or -")
TEXT_COLUMN = flags.DEFINE_string("text_column", None, "the input's column, if not text")
LABEL_COLUMN = flags.DEFINE_string("label_column", None, "the input's labels, if not label")
AT_LEAST = flags.DEFINE_float("at_least", 0.0, "p below which no class is predicted", 0.0, 1.0)
EXPLAIN = flags.DEFINE_bool("explain", False, "show the words that pushed the prediction")
LABEL = flags.DEFINE_string("label", "", "the class or label to explain, if not the predicted one")
OUTPUT = flags.DEFINE_string("output", None, "folder, table or page")
FORMAT = flags.DEFINE_enum("format", "transformers", ["transformers", "onnx"], "what opens it")
WITH_TEXT = flags.DEFINE_bool("with_text", False, "show texts of mistakes, not only of a table")
USUAL_AXES = ("optimizer", "batch_size", "learning_rate", "seeds", "split_seeds")
OTHER_AXES = [field for field in sweep_fields() if field not in USUAL_AXES]
SWEEP: dict[str, flags.FlagHolder] = {
    axis: flags.DEFINE_list(f"sweep_{axis}", None, "values to try: A,B,...")
    for axis in (*USUAL_AXES, *OTHER_AXES)
}
SWEEP["procedure"] = flags.DEFINE_enum("sweep_procedure", None, PROCEDURES, "how to search")
EVALUATE_MAY_CHANGE = ("eval_batch_size", "data.path", "data.test_path", "data.validation_path")
EXPECTED = {  # words of an error about a flag's value -> what it should be
    "invalid literal for int()": "a whole number",
    "could not convert string to float": "a number",
    "Non-boolean argument": "True or False",
}
OWN_FLAGS = {  # modes -> the flags that they alone read
    tuple(NEEDED): ["mode", "config", "workdir"],
    ("train", "pretrain"): ["fresh", "tensorboard", "dry_run"],
    ("train", "pretrain", "compare", "sweep"): ["stop_after"],
    ("train", "pretrain", "evaluate"): ["coordinator", "process_id", "process_count", "lost_after"],
    ("compare",): ["choose_by"],
    ("evaluate",): ["split", "label_column"],
    ("evaluate", "predict"): ["calibrated", "input", "text_column"],
    ("predict",): ["text", "explain", "label", "at_least"],
    ("evaluate", "predict", "export", "report"): ["output"],
    ("export",): ["format"],
    ("sweep",): [f"sweep_{axis}" for axis in SWEEP],
    ("report",): ["with_text"],
}


def parse(arguments: list[str]) -> None:
    """Parse the command line; InputError for unknown names, bad values and stray arguments."""
    if re.search(r" --?mode[= ]compare\b", " ".join(arguments)):
        if any(re.match("--?config(=|$)", argument) for argument in arguments):
            raise InputError("--config: --mode=compare has recipes of its own: leave it out")
        arguments = [arguments[0], "--config=encoder", *arguments[1:]]  # to read their settings
    try:
        rest = flags.FLAGS(arguments)
    except flags.UnrecognizedFlagError as error:
        is_axis = error.flagname.startswith("sweep_")
        known = [name for name in flags.FLAGS if name.startswith("sweep_") == is_axis]
        known += [f"config.{name}" for name in flatten(flags.FLAGS["config"].value or {})]
        wanted = "path" if error.flagname == "data" else error.flagname
        near = did_you_mean(wanted, known, "--{}") or ": see --config=FILE --help"
        if error.flagname.startswith("config.") and not flags.FLAGS["config"].value:
            near = " without --config: add --config=lstm, or the one that the run was made with"
        raise InputError(f"no flag --{error.flagname}{near}") from error
    except Exception as error:  # ml_collections raises what its parsers raise
        given, _, reason = str(error).removeprefix("flag ").partition(": ")
        kinds = [kind for words, kind in EXPECTED.items() if words in reason]
        expected = f"{given}: {kinds[0]} is expected" if kinds else str(error)
        raise InputError(expected or type(error).__name__) from error
    if len(rest) > 1:
        near = did_you_mean(rest[1], NEEDED, "--mode={}") or ", with spaces in quotes"
        if Path(rest[1]).exists():
            reads = "--input" if MODE.value in ("evaluate", "predict") else "--config.data.path"
            near = f"; did you mean {reads}={rest[1]}?"
        raise InputError(f"stray argument {rest[1]!r}; options are written --name=value{near}")


def _help() -> str:
    """Return what --help prints: a config's settings, or the modes, examples and flags."""
    if CONFIG.value is not None:
        file = config_flags.get_config_filename(flags.FLAGS["config"])
        settings = recipes.describe_settings(CONFIG.value)
        return f"Settings of {file}: flag, value, meaning (what is allowed)\n\n{settings}\n"
    text = HELP
    if os.path.basename(sys.argv[0]) == COMMAND:
        text = text.replace("python -m sentiment_jax.main", COMMAND)
    for modes, names in OWN_FLAGS.items():
        text += f"\n{'every mode' if len(modes) == len(NEEDED) else ', '.join(modes)}\n"
        lines = {}
        for name in names:
            meaning = flags.FLAGS[name].help.splitlines()[0].rstrip(";")
            meaning = "one of those above" if name == "mode" else meaning
            shown = "sweep_SETTING" if name.removeprefix("sweep_") in OTHER_AXES else name
            lines[shown] = f"  --{shown:20} {meaning}\n"
        text += "".join(lines.values())
    return text


def check_flags(mode: str) -> None:
    """Raise InputError for a flag that the mode needs and lacks, or that it would ignore."""
    for modes, names in OWN_FLAGS.items():
        for name in names:
            if flags.FLAGS[name].present and mode not in modes:
                readers = " and ".join(f"--mode={reader}" for reader in modes)
                remedy = f"leave it out of --mode={mode}"
                if "_column" in name and mode in ("train", "pretrain", "compare", "sweep"):
                    remedy = f"write --config.data.{name}"
                raise InputError(f"--{name} is a flag of {readers}: {remedy}")
    for name, what in NEEDED[mode].items():
        if not flags.FLAGS[name].value:
            raise InputError(f"--mode={mode} needs --{name}, {what}")
    if mode == "predict" and bool(TEXT.value) == (INPUT.value is not None):
        found = "both were given" if TEXT.value else "neither was given"
        raise InputError(f"--mode=predict: {found}, give one of --text='A text.' and --input=FILE")
    if mode == "evaluate" and OUTPUT.value and INPUT.value is None:
        raise InputError(
            "--output goes with --input=FILE; without it, see predictions.csv in --workdir"
        )
    if mode == "evaluate" and (INPUT.value == "-" or INPUT.value and flags.FLAGS["split"].present):
        raise InputError("--mode=evaluate: --input names a file, and goes without --split")
    for column in (TEXT_COLUMN, LABEL_COLUMN):
        if column.value is not None and INPUT.value is None:
            raise InputError(f"--{column.name} names a column of --input=FILE")
    if LABEL.value and not EXPLAIN.value:
        raise InputError(f"--label={LABEL.value} goes with --explain: the words behind that label")
    if EXPLAIN.value and AT_LEAST.value:
        raise InputError("--at_least goes without --explain, which names a class in any case")
    if EXPLAIN.value and not (OUTPUT.value or ".html").endswith(".html"):
        raise InputError(f"--output={OUTPUT.value}: --explain writes a page, end its name in .html")


def dispatch() -> None:
    """Run the mode that the flags ask for."""
    mode = MODE.value
    check_flags(mode)
    group = launch.find_process_group(COORDINATOR.value, PROCESS_ID.value, PROCESS_COUNT.value)
    if group is not None and not launch.follow_parent():
        sys.exit(launch.run_child(group, LOST_AFTER.value))
    config = CONFIG.value
    changes = {} if config is None else config_flags.get_override_values(flags.FLAGS["config"])
    if mode in ("train", "pretrain", "compare", "sweep"):
        from sentiment_jax.data.dataset import infer_source

        config = infer_source(config)
        if mode != "compare":  # which has recipes of its own
            validate(config, pretraining=mode == "pretrain")
        prefix = "pretrain-" if mode == "pretrain" else ""
        workdirs = [Path(WORKDIR.value or f"runs/{prefix}{run_name(config)}").expanduser()]
    else:
        from sentiment_jax.storage.run_directory import RunDirectory

        workdirs = _find_runs(mode, changes)
        directory = RunDirectory(workdirs[0])
        config = None  # the mode says what is missing
        if directory.config.exists() and changes:
            config = replace_settings(directory.read_classifier(), changes)
            validate(config)
        elif directory.config.exists():
            config = directory.read_config()
    with terminal.progress_bar(None, "starting"):
        startup.start(config, group, LOST_AFTER.value)
        importlib.import_module(f"sentiment_jax.modes.{mode}")  # which takes seconds
    _run_mode(mode, config, workdirs, changes)


def _run_mode(mode: str, config: Any, workdirs: list[Path], changes: dict[str, Any]) -> None:
    match mode:
        case "train" | "pretrain":
            _train(config, workdirs[0])
        case "evaluate":
            _evaluate(workdirs, changes)
        case "predict":
            _predict(workdirs)
        case "export":
            from sentiment_jax.modes.export import export_workdir

            export_workdir(workdirs[0], Path(OUTPUT.value or ""), FORMAT.value)
        case "compare":
            from sentiment_jax.modes.compare import compare

            compare(changes, workdirs[0], choose_by=CHOOSE_BY.value, stop_after=STOP_AFTER.value)
        case "sweep":
            _sweep(config, workdirs[0], changes)
        case "report":
            from sentiment_jax.modes.report import report

            report(workdirs, Path(OUTPUT.value or ""), WITH_TEXT.value)


def _train(config: Any, workdir: Path) -> None:
    from sentiment_jax.modes.pretrain import PRETRAINING, pretrain
    from sentiment_jax.modes.train import dry_run, train

    pretrains = MODE.value == "pretrain"
    if DRY_RUN.value:
        dry_run(config, PRETRAINING if pretrains else None)
        return
    learn = pretrain if pretrains else train
    until = STOP_AFTER.value
    learn(config, workdir, fresh=FRESH.value, tensorboard=TENSORBOARD.value, stop_after=until)


def _evaluate(workdirs: list[Path], changes: dict[str, Any]) -> None:
    from sentiment_jax.modes.evaluate import evaluate_file, evaluate_split
    from sentiment_jax.modes.predict import TextSource

    calibrated = CALIBRATED.value
    if INPUT.value is not None:
        source = TextSource(file=INPUT.value, column=TEXT_COLUMN.value)
        evaluate_file(workdirs, source, _output(), LABEL_COLUMN.value, calibrated=calibrated)
    else:
        evaluate_split(workdirs, SPLIT.value, changes, calibrated=calibrated)


def _predict(workdirs: list[Path]) -> None:
    from sentiment_jax.modes.predict import TextSource, predict_runs

    source = TextSource(TEXT.value, INPUT.value, TEXT_COLUMN.value)
    if isinstance(sys.stdout, terminal.Unbreakable):
        sys.stdout.strict = True  # a table that can't be written whole is an error
    if EXPLAIN.value:
        from sentiment_jax.modes.explain import explain_run

        explain_run(workdirs[0], source, _output(), LABEL.value)
    else:
        limit = AT_LEAST.value
        predict_runs(workdirs, source, _output(), calibrated=CALIBRATED.value, at_least=limit)


def _sweep(config: Any, workdir: Path, changes: dict[str, Any]) -> None:
    from sentiment_jax.modes.sweep import sweep

    file = config_flags.get_config_filename(flags.FLAGS["config"])
    given = {axis: flag.value for axis, flag in SWEEP.items() if flag.value is not None}
    axes = recipes.call_recipe(file, "get_sweep") | given
    sweep(config, workdir, axes, overridden=changes, stop_after=STOP_AFTER.value)


def _output() -> Path | None:
    return Path(OUTPUT.value).expanduser() if OUTPUT.value else None


def _find_runs(mode: str, changes: Mapping[str, Any]) -> list[Path]:
    """Return the runs that --workdir names; InputError for settings that may not change."""
    from sentiment_jax.sweeps.directories import find_run

    allowed = EVALUATE_MAY_CHANGE if mode == "evaluate" else ()
    for name in changes:
        if name not in allowed:
            may = f"--mode={mode} may change {', '.join(allowed) or 'no setting'}"
            raise InputError(f"--config.{name}: a run keeps its config; {may}")
    workdirs = [Path(named := WORKDIR.value or "").expanduser()]
    if mode != "export" and not workdirs[0].is_dir():  # a directory's name may hold a comma
        workdirs = [Path(name).expanduser() for name in named.split(",")]
        if "" in named.split(","):
            raise InputError(f"--workdir={named} names nothing before or after a comma: A,B,...")
    if EXPLAIN.value and (CALIBRATED.value or len(workdirs) > 1):
        raise InputError("--explain takes one run as it is: no other --workdir, no --calibrated")
    return workdirs if mode == "report" else [find_run(workdir) for workdir in workdirs]


def main(arguments: list[str] | None = None) -> int:
    """Parse, dispatch, and turn the expected errors into one line and an exit code."""
    arguments = sys.argv if arguments is None else arguments
    if "--version" in arguments[1:]:
        print(f"{COMMAND} {__version__}")
        return 0
    try:
        known = [argument for argument in arguments if argument not in ("--help", "-h")]
        parse(known)
        if known != arguments:
            print(_help(), end="")
            return 0
        dispatch()
        sys.stdout.flush()  # a result that can't be written fails here
        processes.barrier()
    except (InputError, RunError) as error:
        return _fail(error, 2 if isinstance(error, InputError) else 1)
    except (Interrupted, KeyboardInterrupt) as error:
        return _fail(str(error) or "interrupted", 143)
    except Exception as error:
        if reason := describe_shortage(error) or describe_path(error):
            return _fail(reason, 1)
        if processes.count() == 1:
            raise
        processes.wait_for_coordinator(error)
        traceback.print_exc()
        return processes.shutdown(1)
    return processes.shutdown(0)


def _fail(message: object, code: int) -> int:
    text = " ".join(str(message).split())
    print(text if code == 143 else f"error: {text}", file=sys.stderr)
    return processes.shutdown(code)


def run() -> int:
    """Do what `main` does as a program of its own."""
    terminal.protect_output()
    return main()


if __name__ == "__main__":
    sys.exit(run())
