"""Text classification in plain JAX: BERT, ELECTRA and an LSTM on texts of your own.

From Python: `get_config`, `train`, `compare`, `pretrain`, and `load`, which returns a `Model`. They
come from `api`, which is imported, and JAX with it, when the first of them is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sentiment_jax.api import Model, compare, get_config, load, pretrain, train

__version__ = "0.1.0"
__all__ = ["Model", "compare", "get_config", "load", "pretrain", "train"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("sentiment_jax.api"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
