"""The command line: `cogworks VERB` and `python -m cogworks VERB`.

Each verb is one module that parses, calls one library function and prints. Results go to stdout, everything else to
stderr. The modules import the library inside their functions: `--help` loads no torch and answers at once.

Exit codes: 0 done; 1 the run found a problem (a traceback means a bug); 2 the user must change something;
130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError

from cogworks import __version__
from cogworks.cli.convert import convert
from cogworks.cli.evaluate import evaluate
from cogworks.cli.generate import generate
from cogworks.cli.models import app as models
from cogworks.cli.terminal import configure_logging, say
from cogworks.cli.train import train
from cogworks.errors import CogworksError

DONE, USAGE, INTERRUPTED = 0, 2, 130

app = App(
    name="cogworks",
    help="Generate, train, convert and evaluate video models of the CogVideoX family.\n\n"
    "`cogworks VERB --help` explains a verb. The bundled model `tiny` needs no GPU and no network.",
    version=__version__,
    suppress_keyboard_interrupt=False,
)
app.command(generate)
app.command(models)
app.command(convert)
app.command(evaluate, name="eval")
app.command(train)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: the words after `cogworks`; None takes them from the process.
    """
    configure_logging()
    try:
        app(arguments, exit_on_error=False, print_error=False, verbose=False, result_action="return_value")
        sys.stdout.flush()
    except (CycloptsError, CogworksError) as error:
        say(f"error: {error}")
        return USAGE
    except BrokenPipeError:
        # Whoever read our output has read enough; what is still buffered must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        say(f"error: {error.filename or 'the system'}: {error.strerror or error}")
        return USAGE
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    return DONE
