"""The command line: `python -m sentiment_jax.main --config=configs/lstm.py --workdir=runs/lstm`.

The only file with flags. Slow libraries are imported once the flags are known to be good.
"""

import difflib
import os
import re
import sys
from pathlib import Path
from typing import Any

from absl import flags, logging
from ml_collections import config_flags

from sentiment_jax.errors import InputError, RunError

MODES = ("train", "evaluate", "predict", "export")

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file, with :variant where it has one; train."
)
WORKDIR = flags.DEFINE_string("workdir", None, "Run directory; train names one where none is given.")
MODE = flags.DEFINE_enum("mode", "train", MODES, "What to do.")
SPLIT = flags.DEFINE_enum("split", "test", ("val", "test"), "evaluate: the split to score.")
TEXT = flags.DEFINE_multi_string("text", [], "predict: a review; repeatable.")
INPUT = flags.DEFINE_string("input", None, "predict: a .csv, a text file (a review a line), or -.")
OUTPUT = flags.DEFINE_string("output", None, "export: the folder to write.")
FRESH = flags.DEFINE_bool("fresh", False, "train: start over in a used --workdir.")
ALLOW_CHANGES = flags.DEFINE_bool(
    "allow_changes", False, "train: resume although the config differs; recorded in env.json."
)


def parse(arguments: list[str]) -> None:
    """Parses the command line.

    Raises:
      InputError: unknown flag or field (with the nearest name), bad value, stray argument.
    """
    try:
        rest = flags.FLAGS(arguments)
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
    from sentiment_jax import devices

    if MODE.value == "train":
        if CONFIG.value is None:
            raise InputError("--config is missing: --config=configs/lstm.py, for example")
        from sentiment_jax import config, train

        devices.use_compilation_cache()
        config.validate(CONFIG.value)
        workdir = WORKDIR.value or f"runs/{config.run_name(CONFIG.value)}"
        train.train(
            CONFIG.value, Path(workdir), fresh=FRESH.value, allow_changes=ALLOW_CHANGES.value
        )
        return
    if WORKDIR.value is None:
        raise InputError(f"--mode={MODE.value} needs --workdir, the directory of a finished run")
    workdir = Path(WORKDIR.value)
    devices.use_compilation_cache()
    if MODE.value == "evaluate":
        from sentiment_jax import finish

        finish.evaluate_run(workdir, SPLIT.value)
    elif MODE.value == "predict":
        _predict(workdir)
    else:
        _export(workdir)


def _predict(workdir: Path) -> None:
    if bool(TEXT.value) == (INPUT.value is not None):
        raise InputError("--mode=predict needs --text (repeatable) or --input=FILE, not both")
    from sentiment_jax import predict, task

    trained = task.load_run(workdir)
    if TEXT.value:
        predict.print_verdicts(trained, TEXT.value)
    else:
        predict.predict_input(trained, INPUT.value)


def _export(workdir: Path) -> None:
    if OUTPUT.value is None:
        raise InputError("--mode=export needs --output, the folder to write")
    from sentiment_jax import export, task

    trained = task.load_run(workdir)
    if trained.config.model.name == "lstm":
        raise InputError(f"{workdir} holds an lstm: only bert and electra have a Hugging Face form")
    export.export_pretrained(
        Path(OUTPUT.value), trained.model.config, trained.params, trained.tokenizer
    )
    print(f"wrote {OUTPUT.value}: open it with transformers' AutoModelForSequenceClassification")


def main(arguments: list[str] | None = None) -> int:
    """Parses, dispatches, and turns the expected errors into one line and an exit code."""
    try:
        parse(sys.argv if arguments is None else arguments)
        dispatch()
    except InputError as error:
        return _fail(error, 2)
    except RunError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 143)
    except Exception as error:
        if type(error).__name__ == "Interrupted":
            return _fail(error, 143)
        raise
    return 0


def _fail(message: Any, code: int) -> int:
    text = " ".join(str(message).split())
    print(text if code == 143 else f"error: {text}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
