"""`python -m keras_logit_adjust`."""

import sys

from keras_logit_adjust.cli import main

if __name__ == "__main__":
    sys.exit(main())
