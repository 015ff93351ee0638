"""`python -m iresnet_train ...`: `iresnet-export train ...`, in the form that torchrun starts."""

from __future__ import annotations

import sys

from iresnet_export.cli.main import main

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    main()
