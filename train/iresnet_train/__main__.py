"""`python -m iresnet_train ...`: `iresnet-export train ...`, in the form that torchrun starts.

The program stands above this package, and is found by the name under which it is installed.
"""

from __future__ import annotations

import sys
from importlib.metadata import entry_points

if __name__ == "__main__":
    (program,) = entry_points(group="console_scripts", name="iresnet-export")
    sys.argv.insert(1, "train")
    program.load()()
