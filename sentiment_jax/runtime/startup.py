"""What must be set before JAX starts: XLA's flags, malloc, the CPU's devices, the cache.

Each is a matter of speed and can be switched off:

* malloc: set GLIBC_TUNABLES, to anything.
* AVX-512: set --xla_cpu_prefer_vector_width in XLA_FLAGS, to any width.
* CPU devices: --config.cpu_devices=1, or a device count in XLA_FLAGS.
* compilation cache: JAX_ENABLE_COMPILATION_CACHE=false; JAX_COMPILATION_CACHE_DIR moves it.
"""

import os
import sys
from pathlib import Path

# Huge pages; blocks below 128 MiB are kept when they are freed, in one heap for all threads.
TUNABLES = ":".join(
    f"glibc.malloc.{name}={value}"
    for name, value in {
        "hugetlb": 1,
        "mmap_threshold": 2**27,
        "trim_threshold": 2**33,
        "arena_max": 1,
    }.items()
)


def tune_malloc() -> None:
    """Restart this process with TUNABLES, which glibc reads at the start of a process only.

    The processes that it starts inherit them, and need no restart.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = TUNABLES
        os.execv(sys.executable, sys.orig_argv)


def use_cpu_devices(count: int) -> None:
    """Split this machine's CPU into `count` devices of one thread each; call before JAX starts.

    XLA runs the small steps of a scan on one core, whatever the machine has; as many devices as
    cores use all of them. 1 leaves JAX as it is: one device, large products on all cores. Where
    there is an accelerator, this changes nothing.
    """
    if count > 1 and _add_xla_flag("--xla_cpu_multi_thread_eigen=false", unless="device_count"):
        import jax

        jax.config.update("jax_num_cpu_devices", count)


def use_wide_vectors() -> None:
    """Let XLA's own loops use all of a CPU's AVX-512 units; call before JAX starts.

    Its default, 256 bits, leaves half of each idle. Sums are taken in another order, so the bits of
    a run depend on it.
    """
    _add_xla_flag("--xla_cpu_prefer_vector_width=512", unless="prefer_vector_width")


def _add_xla_flag(flag: str, unless: str) -> bool:
    """Append to XLA_FLAGS, unless they contain `unless` or are the name of a file of flags."""
    flags = os.environ.get("XLA_FLAGS", "").strip()
    if unless in flags or flags[:1] not in ("", "-"):
        return False
    os.environ["XLA_FLAGS"] = f"{flags} {flag}".strip()
    return True


def use_compilation_cache() -> None:
    """Keep all compiled programs between runs, in JAX_COMPILATION_CACHE_DIR if that is set."""
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(root / "sentiment_jax" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
