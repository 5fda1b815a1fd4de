"""The fenced blocks of README.md and docs/, and the terminal session that README.md shows.

    python tests/readme.py > results/accuracy/tour/session.txt

in a fresh clone runs the README's blocks that are followed by their output.
"""

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
DOCS = sorted((ROOT / "docs").glob("*/*.md"), key=lambda page: page.name)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]


class Block(NamedTuple):
    """A fenced block: its language and its content."""

    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)
    return [Block(*block) for block in found]


def shown(page: Path) -> list[tuple[Block, Block]]:
    """Return each block of commands or Python that is followed by its output, with the output."""
    every = blocks(page)
    return [pair for pair in zip(every, every[1:], strict=False) if pair[1].language == "text"]


def record() -> None:
    script = "exec 2>&1\nset -e\n"
    for block, _ in shown(ROOT / "README.md"):
        prompt = "".join(f"$ {line}\n" for line in block.text.splitlines())
        script += f"cat <<'END'\n{prompt}END\n"
        if block.language == "python":
            script += f"python - <<'END'\n{block.text}END\n"
        else:
            script += block.text
    subprocess.run(["bash", "-c", script], cwd=ROOT, check=True)


if __name__ == "__main__":
    record()
