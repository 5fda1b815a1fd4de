"""What is set before JAX starts, for speed or reproducibility; each can be switched off."""

import contextlib
import functools
import importlib.metadata
import importlib.util
import logging
import math
import os
import pkgutil
import re
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

from sentiment_jax.runtime import terminal

# Huge pages; one heap for all threads, which keeps freed blocks below 128 MiB.
TUNABLES = (
    f"glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold={2**27}:"
    f"glibc.malloc.trim_threshold={2**33}:glibc.malloc.arena_max=1"
)


def start(config: Any, group: Any = None, lost_after: int = 60) -> None:
    """Start JAX as a run of `config` wants it; join the other processes of a launch.ProcessGroup.

    If this Python has used JAX already, its devices and flags stay as they are.
    """
    import absl.logging
    import jax

    from sentiment_jax.runtime import launch  # late: main.py imports this file before it restarts

    # A user can act on nothing that Orbax, TFDS and transformers log.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    absl.logging.set_verbosity(absl.logging.FATAL)  # what fails reaches us as an exception
    _hush_orbax()
    devices = jax.config.jax_num_cpu_devices  # type: ignore[attr-defined]
    started = True
    with contextlib.suppress(RuntimeError):  # after its start, JAX refuses to change their number
        for count in (devices % 2 + 1, devices):
            jax.config.update("jax_num_cpu_devices", count)
        started = False
    if not started:
        use_wide_vectors()
        use_deterministic_kernels()
        if group is not None:
            launch.connect(group, lost_after)
        elif config is not None:
            rows = config.batch_size // config.gradient_accumulation
            use_cpu_devices(math.gcd(config.cpu_devices, rows, config.eval_batch_size))
    use_compilation_cache()


@functools.cache
def _hush_orbax() -> None:
    """Hide what Orbax's threads say of a failed save, or of a read that is tried again."""
    # Tensorstore, which reads for Orbax, names the file's format.
    theirs = re.compile("orbax|zarr")
    logging.getLogger("asyncio").addFilter(lambda record: not theirs.search(record.getMessage()))
    report = sys.unraisablehook

    def report_others(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            report(unraisable)

    sys.unraisablehook = report_others


def tune_malloc() -> None:
    """Restart with TUNABLES, which glibc reads at the start, unless GLIBC_TUNABLES is set."""
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = TUNABLES
        os.execv(sys.executable, sys.orig_argv)


def use_cpu_devices(count: int) -> None:
    """Split this machine's CPU into `count` devices of one thread each; call before JAX starts.

    XLA runs the small steps of a scan on one core; as many devices as cores use all. With 1, or a
    device count in XLA_FLAGS, large products use all cores. An accelerator is not affected.
    """
    if count > 1 and _add_xla_flag("--xla_cpu_multi_thread_eigen=false", unless="device_count"):
        import jax

        jax.config.update("jax_num_cpu_devices", count)


def use_wide_vectors() -> None:
    """Let XLA's loops use whole AVX-512 units, which changes bits, unless XLA_FLAGS name one."""
    _add_xla_flag("--xla_cpu_prefer_vector_width=512", unless="prefer_vector_width")


def use_deterministic_kernels() -> None:
    """Let a GPU give the same bits each time, unless XLA_FLAGS say otherwise; no CUDA, no flag.

    This excludes scatter-adds by atomics (results/speed/gpu has what that adds to a step). XLA also
    stops timing kernels on the device to choose the fastest; that cost has not been measured.
    """
    if has_cuda():
        _add_xla_flag("--xla_gpu_deterministic_ops=true", unless="xla_gpu_deterministic_ops")


def has_cuda() -> bool:
    """Return whether JAX's CUDA plug-in is installed."""
    plugins = importlib.util.find_spec("jax_plugins")
    found = pkgutil.iter_modules(plugins.submodule_search_locations if plugins else [])
    return any(module.name.startswith("xla_cuda") for module in found)


def fastest_dtype(model: str) -> str:
    """Return "bfloat16" if it is fast on this machine, else "float32".

    A CPU without instructions for bfloat16 takes several times as long as in float32, and so does
    jax 0.10 for an LSTM (results/speed/pytorch).
    """
    if has_cuda():
        return "bfloat16"
    slow = model == "lstm" and importlib.metadata.version("jaxlib").startswith("0.10.")
    with contextlib.suppress(OSError):  # it is Linux's
        if not slow and "bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8"):
            return "bfloat16"
    return "float32"


def _add_xla_flag(flag: str, unless: str) -> bool:
    flags = os.environ.get("XLA_FLAGS", "").strip()
    if flag in flags.split():  # a sweep that began this process added it
        return True
    if unless in flags or flags[:1] not in ("", "-"):  # it may be the name of a file of flags
        return False
    os.environ["XLA_FLAGS"] = f"{flags} {flag}".strip()
    return True


def use_compilation_cache() -> None:
    """Keep all compiled programs between runs, unless JAX_ENABLE_COMPILATION_CACHE is false."""
    import jax

    cache = find_cache()
    if cache and not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(cache / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    # JAX never replaces an entry that it can't read: it compiles, and warns, in every run.
    warnings.filterwarnings("ignore", "Error (read|writ)ing persistent compilation cache entry")


def find_cache() -> Path | None:
    """Return our folder in the user's cache; None, after a warning, if it can't be written."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it copes, but warns in every run
    if os.path.expanduser("~") == "~":  # neither HOME nor an entry in /etc/passwd
        os.environ["HOME"] = "/"
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        folder = root / "sentiment_jax"
        (folder / "xla").mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder / "xla").close()
        return folder
    except OSError as error:
        remedy = "nothing is cached; set XDG_CACHE_HOME to a folder of yours"
        terminal.warn_once(f"cannot write to {root} ({error.strerror}): {remedy}")
        return None
