"""The old name of `python -m training.publish.adapter`."""

import sys

from training.publish.adapter import main

if __name__ == "__main__":
    sys.exit(main())
