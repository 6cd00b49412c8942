"""What the measuring tools share: where they are, which commit is measured, and tables in Markdown."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def commit():
    """The commit of the checkout, marked where files differ from it; "unknown" where git does not say."""
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True,
                          check=False)
    return done.stdout.strip() or "unknown"


def table(head, rows):
    """A Markdown table; all columns but the first are numbers."""
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def bpc_of(run, result):
    """The bpc of one result of a run in a results.json; a run without one ends the program."""
    if result["bpc"] is None:
        raise SystemExit(f"{run['run']} has no bpc at {result['dial']} = {result['value']}: its loss is not finite")
    return result["bpc"]
