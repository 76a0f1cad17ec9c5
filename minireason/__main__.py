"""`python -m minireason` is the command line."""

import sys

from minireason.cli import main

sys.exit(main())
