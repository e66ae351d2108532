"""`python -m ssd_edge`: the same as the `ssd-edge` command."""

import sys

from ssd_edge.cli.main import main

sys.exit(main())
