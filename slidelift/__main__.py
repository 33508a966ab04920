"""`python -m slidelift`: the command line."""

import sys

from slidelift.service.cli import main

if __name__ == "__main__":
    sys.exit(main())
