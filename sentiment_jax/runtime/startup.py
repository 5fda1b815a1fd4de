"""What must be set before JAX starts. Each is for speed, and says how it is switched off."""

import os
import sys
from pathlib import Path

# Huge pages; blocks below 128 MiB are kept when they are freed, in one heap for all threads.
TUNABLES = (
    f"glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold={2**27}:"
    f"glibc.malloc.trim_threshold={2**33}:glibc.malloc.arena_max=1"
)


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


def _add_xla_flag(flag: str, unless: str) -> bool:
    flags = os.environ.get("XLA_FLAGS", "").strip()
    if unless in flags or flags[:1] not in ("", "-"):  # it may be the name of a file of flags
        return False
    os.environ["XLA_FLAGS"] = f"{flags} {flag}".strip()
    return True


def use_compilation_cache() -> None:
    """Keep all compiled programs between runs, unless JAX_ENABLE_COMPILATION_CACHE is false."""
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(root / "sentiment_jax" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
