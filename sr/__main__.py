"""`python -m sr` and `accelerate launch -m sr`."""

import sys

from sr.cli import main

sys.exit(main())
