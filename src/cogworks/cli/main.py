"""The command line: `cogworks VERB` and `python -m cogworks VERB`.

Each verb is one module that parses, calls one library function and prints. Results go to stdout, everything else to
stderr. The modules import the library inside their functions: `--help` loads no torch and answers at once.

Exit status: 0 done; 1 the run itself found a fault; 2 the user must change something; 130 interrupted.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Literal

from cyclopts import App, CycloptsError

from cogworks import __version__
from cogworks.cli.convert import convert
from cogworks.cli.data import app as data
from cogworks.cli.doctor import doctor
from cogworks.cli.evaluate import evaluate
from cogworks.cli.generate import STANDARD_INPUT, generate
from cogworks.cli.groups import MODELS, THIS, VIDEOS
from cogworks.cli.help import FlowingHelp
from cogworks.cli.lora import app as lora
from cogworks.cli.models import app as models
from cogworks.cli.plan import plan
from cogworks.cli.replay import replay
from cogworks.cli.show import show
from cogworks.cli.terminal import configure_logging, say, speak_json
from cogworks.cli.train import train
from cogworks.errors import CogworksError, RequestError, RunError

DONE, FAULT, USAGE, INTERRUPTED = 0, 1, 2, 130

app = App(
    name="cogworks",
    help="""Generate, train, convert and evaluate video models of the CogVideoX family.

The bundled model `tiny` needs no GPU and no network. `cogworks VERB --help` explains a verb.""",
    help_format="plaintext",  # markdown takes 0.1 s to load
    help_formatter=FlowingHelp(),
    help_epilogue="""Examples:

  cogworks generate "a red circle moves right" --seed 7 -o circle.mp4
  cogworks replay circle.mp4 --seed 8
  cogworks generate --batch prompts.txt -o videos/
  cogworks plan --model cogvideox-5b --memory 16GB""",
    group_commands=THIS,
    version=__version__,
    suppress_keyboard_interrupt=False,
)
app.command(
    generate,
    group=VIDEOS,
    sort_key=1,
    help_epilogue="""Examples:

  cogworks generate "a red circle moves right" --seed 7 -o circle.mp4
  cogworks generate "a green circle" --video circle.mp4 -o green.gif
  cogworks generate @prompt.txt --image a.png --model cogvideox-5b-i2v
  cogworks generate --batch prompts.jsonl -o "videos/{index}-{seed}.mp4" """,
)
app.command(replay, group=VIDEOS, help_epilogue="Example:\n\n  cogworks replay circle.mp4 --steps 50")
app.command(show, group=VIDEOS, help_epilogue="Example:\n\n  cogworks show circle.mp4")
app.command(
    plan, group=VIDEOS, help_epilogue="Example:\n\n  cogworks plan --model cogvideox1.5-5b --frames 81 --memory 24GB"
)
app.command(models)
app.command(lora)
app.command(data)
app.command(convert, group=MODELS, help_epilogue="Example:\n\n  cogworks convert tiny tiny-sat --to sat")
app.command(train, group=MODELS, help_epilogue="Example:\n\n  cogworks train recipes/tiny-vae.yaml steps=100")
app.command(evaluate, name="eval", group=MODELS, help_epilogue="Example:\n\n  cogworks eval tiny --samples 10")
app.command(doctor, group=THIS, help_epilogue="Examples:\n\n  cogworks doctor\n  cogworks doctor ./CogVideoX-5b")


@app.command(name="--install-completion", group=THIS, help_epilogue="")
def install_completion(*, shell: Literal["bash", "zsh", "fish", "powershell"] | None = None) -> None:
    """Complete verbs and options at the Tab key, from the next shell on.

    Args:
        shell: Which one; the one this runs in if not given.
    """
    from cyclopts.completion.detect import ShellDetectionError

    try:
        say(f"wrote {app.install_completion(shell=shell)}; open a new shell")
    except ShellDetectionError:
        raise RequestError("which shell this is cannot be told; name it: --install-completion --shell bash") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Args:
        arguments: the words after `cogworks`; None takes them from the process. `--debug` among them shows where in
            the code an error came from.
    """
    if arguments is None:
        # What is left at the end is given back with the process; looking for garbage in it takes 0.4 s after torch.
        atexit.register(gc.freeze)
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [STANDARD_INPUT if word == "-" else word for word in words if word != "--debug"]
    speak_json(events="--json" in words)
    configure_logging()
    try:
        app(words, exit_on_error=False, print_error=False, verbose=False, result_action="return_value")
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has read enough; what is still buffered must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _explain(error)
    return DONE


def _explain(error: Exception) -> int:
    """Say what an error means, and return the exit status it stands for."""
    if isinstance(error, CycloptsError | CogworksError):
        say(f"error: {error}", "error")
        return FAULT if isinstance(error, RunError) else USAGE
    if isinstance(error, OSError):
        say(f"error: {error.filename or 'the system'}: {error.strerror or error}", "error")
        return USAGE
    say(f"error: this is a bug of Cogworks ({type(error).__name__}: {error}); --debug shows where it is", "error")
    return FAULT
