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
TUNABLES = (
    f"glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold={2**27}:"
    f"glibc.malloc.trim_threshold={2**33}:glibc.malloc.arena_max=1"
)


def tune_malloc() -> None:
    """Restart with TUNABLES, which glibc reads at the start of a process; its children inherit."""
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = TUNABLES
        os.execv(sys.executable, sys.orig_argv)


def use_cpu_devices(count: int) -> None:
    """Split this machine's CPU into `count` devices of one thread each; call before JAX starts.

    XLA runs the small steps of a scan on one core; as many devices as cores use all of them. 1
    leaves JAX as it is: one device, large products on all cores. An accelerator is not affected.
    """
    if count > 1 and _add_xla_flag("--xla_cpu_multi_thread_eigen=false", unless="device_count"):
        import jax

        jax.config.update("jax_num_cpu_devices", count)


def use_wide_vectors() -> None:
    """Let XLA's own loops use whole AVX-512 units, not half of each; this changes a run's bits."""
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
