"""`python -m cogworks VERB`, the same as `cogworks VERB`."""

import sys

from cogworks.cli.main import main

sys.exit(main())
