"""Write docs/reference/settings.md, the page of all settings, from the schema.

python -m benchmarks.settings
"""

from pathlib import Path
from typing import Any

from sentiment_jax.config import schema as schemas
from sentiment_jax.config.schema import MODELS, Setting, schema

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "settings.md"
INTRODUCTION = """\
# Settings

Each setting is a flag, `--config.epochs=3` for example, and a key of `get_config`. These are the
schema's defaults. Recipes override them: `--config=lstm --help` lists a recipe's settings with its
values. If only some architectures have a setting, its meaning names them.
`python -m benchmarks.settings` writes this page from `config/schema.py`.
"""


def page() -> str:
    """Return the page: a table for each group of settings."""
    text = INTRODUCTION + _table("Run", schemas.Config, [*schemas.settings_of(schemas.Config)])
    every = dict.fromkeys(name for model in MODELS for name in schema(model))
    for group, kind in schemas.groups_of("bert").items():
        names = [name for name in every if name.startswith(f"{group}.")]
        text += _table(group.title(), schemas.ModelConfig if group == "model" else kind, names)
    return text


def _table(title: str, kind: type, names: list[str]) -> str:
    text = f"\n## {title}\n\n{(kind.__doc__ or '').splitlines()[0]}\n\n"
    text += "| setting | default | allowed | meaning |\n|---|---|---|---|\n"
    for name in names:
        rules: dict[str, list[tuple[str, Setting]]] = {}  # by meaning, each with its architectures
        for model in MODELS:
            if name in (settings := schema(model)):
                rules.setdefault(settings[name].meaning, []).append((model, settings[name]))
        for meaning, found in rules.items():
            models, same = zip(*found, strict=True)
            defaults = {_default(rule) for rule in same}
            default = defaults.pop() if len(defaults) == 1 else "the recipe's"
            mark = "" if len(models) == len(MODELS) else f"{', '.join(models)}: "
            text += f"| `{name}` | {default} | {_allowed(same[0])} | {mark}{meaning} |\n"
    return text


def _default(rule: Setting) -> str:
    default = _code(rule.default)
    if rule.inherited:
        return f"the pretrained weights'{default and f', or {default}'}"
    return default or "empty"


def _allowed(rule: Setting) -> str:
    if rule.choices:
        return ", ".join(filter(None, map(_code, rule.choices)))
    return _code(rule.allowed)


def _code(value: Any) -> str:
    return "" if value in ("", None) else f"`{value}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
