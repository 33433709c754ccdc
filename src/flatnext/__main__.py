"""`python -m flatnext` is the command `flatnext`."""

import sys

from flatnext.cli import main

if __name__ == "__main__":
    sys.exit(main())
