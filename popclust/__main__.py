"""`python -m popclust`."""

import sys

from popclust.cli import main

if __name__ == "__main__":
    sys.exit(main())
