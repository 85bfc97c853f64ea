"""The `sparc3` entry: picks the command and imports only what it needs, so that `--help` starts at once."""

import io
import locale
import os
import sys
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sparc3_lightning.version import __version__

TRAINER_COMMANDS = {
    "fit": "train a causal language model, or tune a pruned one with its pruned neurons held at zero",
    "validate": "perplexity",
    "test": "the full evaluation, of the model as it is (baseline) or with a recipe applied (pruned)",
    "predict": "attribute reference sets; where the config says so, select, prune and evaluate: the main job",
}
FILE_COMMANDS = {
    "inspect": "show a finished run, an experiment of it, a score directory or a recipe",
    "select": "score directories in, recipe out",
    "apply": "base model and recipe in, pruned Hugging Face directory out",
    "plan": "what a run needs before anyone queues: memory, disk, seconds; from its YAML",
    "report": "figures and a page of a finished run, from its results files",
    "compare": "runs side by side, and what differs in their configs",
}


def usage() -> str:
    """What `sparc3 --help` prints."""
    lines = ["usage: sparc3 COMMAND [OPTIONS]   (sparc3 COMMAND --help shows its options)", ""]
    lines += ["Runs, set in YAML (--config FILE, repeatable; --KEY VALUE; --print_config):"]
    lines += [_entry(*command) for command in TRAINER_COMMANDS.items()]
    lines += ["", "Files:"]
    lines += [_entry(*command) for command in FILE_COMMANDS.items()]
    lines += ["", "  --version print the version", ""]
    lines += [
        "Exit codes: 0 done; 1, 2 refused; 75 stopped by SIGTERM, SIGUSR1 or Ctrl-C:",
        "  the same command goes on; 143 ended by SIGTERM, nothing to go on with",
    ]
    lines += ["", "Start here: sparc3 predict --config configs/tiny/suppress.yaml"]
    return "\n".join(lines)


def _entry(name: str, text: str) -> str:
    return textwrap.fill(f"  {name:<10}{text}", width=80, subsequent_indent=" " * 12)


def main(args: Sequence[str] | None = None) -> Any:
    """Run one command in this process.

    Args:
        args: Command and options, such as `["predict", "--config", "run.yaml"]`; default: the command line's.

    Returns:
        The LightningCLI object of a run (with its trainer, model and data), or None.

    Raises:
        SystemExit: Unknown command or options, with status 2.
        OSError: Python runs on Windows.
        ValueError: What a file or an option caused.
    """
    if sys.platform == "win32":
        raise OSError(
            "Windows is not supported: runs lock their directory, and are told to stop, as Linux and macOS do it. Use "
            "WSL (https://learn.microsoft.com/windows/wsl) or a container."
        )
    _use_utf8()
    typed = args is None
    args = list(sys.argv[1:] if args is None else args)
    command = args[0] if args else "--help"
    if command in ("-h", "--help"):
        print(usage())
    elif command == "--version":
        print(__version__)
    elif command in TRAINER_COMMANDS:
        check_same_checkout()
        from sparc3_lightning.cli import run

        # LightningCLI warns of arguments given where there is a command line: it must read that itself.
        return run(None if typed else args, descriptions=TRAINER_COMMANDS)
    elif command in FILE_COMMANDS:
        from sparc3_lightning.commands import run_file_command

        run_file_command(command, args[1:])
    else:
        print(f"sparc3: error: {_unknown(command)}\n\n{usage()}", file=sys.stderr)
        raise SystemExit(2)
    return None


def _use_utf8() -> None:
    """Read and write files as UTF-8 whatever the locale, those too that jsonargparse and Lightning open."""
    if locale.getencoding().lower() in ("utf-8", "utf8"):
        return
    for name in ("C.UTF-8", "C.utf8", "UTF-8"):  # as PEP 538 does
        with suppress(locale.Error):
            locale.setlocale(locale.LC_CTYPE, name)
            break
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what the terminal cannot show ends no run


def check_same_checkout() -> None:
    """The two packages must come from one place: a mix of an installed and a checked-out one gives two of every class.

    Looked for, not imported: a user's own package of that name may be anything.

    Raises:
        ValueError: They do not; says where `callbacks` was found.
    """
    home, spec = Path(__file__).resolve().parent.parent, find_spec("callbacks")
    found = [] if spec is None else [*(spec.submodule_search_locations or [str(spec.origin)])]
    if [Path(place).resolve() for place in found] != [home / "callbacks"]:
        raise ValueError(
            f"`callbacks` must come from the same checkout as `sparc3_lightning`, {home}, got "
            f"{', '.join(found) or 'none'}. Start in another directory, take that one from PYTHONPATH or "
            "rename it; or install this checkout (`pip install -e .`)."
        )


def _unknown(command: str) -> str:
    if command.startswith("-"):
        return f"the command comes first, then its options: sparc3 predict {command} ..."
    return f"unknown command {command!r}; choose one of {', '.join([*TRAINER_COMMANDS, *FILE_COMMANDS])}"


def console() -> int:
    """`main` for the shell: what a user or a config caused ends in one line, not in a traceback."""
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read has seen enough (`| head`). Python writes what is left once more when it ends: to nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130  # as a shell says it
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("SPARC3_TRACEBACK"):
            raise
        print(f"sparc3: error: {error}\n(SPARC3_TRACEBACK=1 shows where it was raised)", file=sys.stderr)
        return 1
    return 0
