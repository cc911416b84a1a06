"""Lets a launcher start llmcls: as a module anywhere, and by its folder at the root of a checkout.

python -m llmcls train --data tickets.csv
accelerate launch llmcls train --data tickets.csv      # runs `python llmcls train ...`
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:
    # Python was given the folder and put it first on the search path: there `llmcls` cannot be found, and our modules
    # would be importable by their bare names.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from llmcls.cli import main

if __name__ == "__main__":
    main()
