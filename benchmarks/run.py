"""Every benchmark, one after another, each in a process of its own; results go to benchmarks/results.

python benchmarks/run.py                       # all, one after another
python benchmarks/run.py training reading      # some
python benchmarks/run.py --quick               # seconds each, to see that they work; writes nothing
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

NAMES = (
    "training",
    "training_bert",
    "bert_samples",
    "reading",
    "building",
    "tokenizing",
    "data_growth",
    "planning",
    "anchors",
    "startup",
    "first_job",
    "saving",
    "saving_large",
    "overhead",
    "export",
    "generation",
    "perplexity",
    "gan",
)


def main(known: Sequence[str], doc: str | None, prefix: str = "") -> None:
    """Run those that the command line names, or all known."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(known))
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(known):
        parser.error(f"{', '.join(sorted(unknown))}: not among {', '.join(known)}")
    options = ["--quick"] if arguments.quick else []
    failed = []
    for name in arguments.names or known:
        script = Path(__file__).with_name(f"{prefix}{name}.py")
        if subprocess.run([sys.executable, str(script), *options], check=False).returncode:
            failed.append(name)
    if failed:
        sys.exit(f"did not end well: {', '.join(failed)}")


if __name__ == "__main__":
    main(NAMES, __doc__)
