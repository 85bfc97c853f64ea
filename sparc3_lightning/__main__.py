"""`python -m sparc3_lightning` is `sparc3`."""

import sys

from sparc3_lightning.main import console

if __name__ == "__main__":
    sys.exit(console())
