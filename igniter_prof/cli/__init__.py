"""The command line: one module a verb, loaded when the verb is used, so that --help is instant."""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
import tempfile
import traceback
from pathlib import Path

import click

from igniter_prof import __version__
from igniter_prof.errors import INTERRUPTED, IgprofError

# verb: its one line of help; its module is igniter_prof.cli.<verb>_verb, its command `command`
VERBS = {
    "doctor": "What this machine can do, and how to add what is missing.",
    "zoo": "List and build the networks that come with igprof.",
    "profile": "Measure a sweep: models alone and co-located.",
    "dataset": "Check, merge and compare profiles.",
    "fit": "Fit a latency model to a profile.",
    "predict": "Predict the latency of cells from coefficients.",
    "explain": "Split predictions into the terms that they are made of.",
    "suggest": "Choose the cells whose measurement would help most.",
    "plan": "Place workloads on as few devices as possible.",
    "replan": "Change a plan for other workloads, moving few of them.",
    "whatif": "What a change of workloads or devices would do to a plan.",
    "cheapest": "The cheapest type of device for each workload, and why.",
    "check": "Re-derive every promise of a plan.",
    "launch": "Start a plan's servers and leave them running.",
    "status": "Show what is launched.",
    "stop": "Stop a launched plan.",
    "evaluate": "Load a plan and count SLO violations.",
    "sniff": "Measure anybody's requests from packets.",
    "proxy": "Time the requests of clients that igprof does not own.",
    "report": "One HTML file from profiles, coefficients, plans, results.",
    "import": "Read other tools' files into ours.",
    "export": "Write our files in other tools' formats.",
    "schema": "Print the JSON Schema of a file format.",
}


class LazyGroup(click.Group):
    """A group whose commands are imported only when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs, in the order in which they are used."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a verb's module and return its command."""
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"igniter_prof.cli.{cmd_name}_verb")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve a verb; an unknown one gets a 'did you mean'."""
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            from igniter_prof.errors import did_you_mean

            ctx.fail(f"No such verb '{args[0]}'; {did_you_mean(args[0], VERBS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing any."""
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group(
    cls=LazyGroup,
    subcommand_metavar="VERB [ARGS]...",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="igprof")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def igprof(debug: bool) -> None:
    """Measure how models that share a GPU slow each other down, and plan from it."""


def main(arguments: list[str] | None = None) -> None:
    """Run igprof; every failure becomes a message on standard error and an exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # the matrices are small: more threads would wait for each other, and for what is measured
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    debug = "--debug" in arguments or bool(os.environ.get("IGPROF_DEBUG"))
    arguments = [argument for argument in arguments if argument != "--debug"]
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # closed by whoever started us
            setattr(sys, stream, open(os.devnull, "w"))  # noqa: PTH123, SIM115
    # as an interrupt: contexts close, nothing is left running
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup has it ignored: so it stays
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        status = igprof.main(arguments, prog_name="igprof", standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except IgprofError as error:
        if debug:
            traceback.print_exc()
        _say(str(error))
        sys.exit(error.exit_status)
    except click.exceptions.Exit as exit_:
        sys.exit(exit_.exit_code)
    except click.ClickException as error:
        error.show(sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        _say("interrupted")
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # the reader of our standard output left; it has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            _say("no disk space is left\n  free some space and run the same command again")
            sys.exit(3)
        if debug:
            traceback.print_exc()
        else:
            _say(f"a defect of igprof: {error!r}\n  {_store_traceback()}; please report it")
        sys.exit(1)


def _store_traceback() -> str:
    try:
        handle, name = tempfile.mkstemp(prefix="igprof-traceback-", suffix=".txt")
        with os.fdopen(handle, "w") as out:
            out.write(f"igprof {__version__}\n")  # not the arguments: they may hold secrets
            traceback.print_exc(file=out)
    except OSError as error:
        return f"the traceback could not be written ({error.strerror}); run it with --debug"
    return f"the traceback was written to {Path(name)}"


def _say(message: str) -> None:
    click.echo(f"igprof: {message}", err=True)
