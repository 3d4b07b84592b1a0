"""The command line: each command is one call. Modules are imported where they are used: `--help` answers in 0.1 s.

Exit codes: 0 passed, 1 failed, 2 a mistake in a file or on the command line, 3 broken or inconclusive, 130 interrupted.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from testbed import VERSION, cli_help, cli_told, command
from testbed.cli_errors import Impossible, Mistake, mistakes
from testbed.cli_kernel import kernel
from testbed.cli_lab import LAB_COMMANDS
from testbed.cli_words import Jobs, Seeds

_PATH = click.Path(path_type=Path)
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(VERSION, prog_name="allowlab")
def main() -> None:
    """A test-bed for VPN-allowlist policies: measures who is blocked by mistake, for how long, and why.

    Completion for bash: eval "$(_ALLOWLAB_COMPLETE=bash_source ./allowlab)"; also zsh_source, fish_source.
    """


@main.command(epilog=cli_help.AFTER_RUN)
@click.argument("scenarios", metavar="SCENARIO...", type=_FILE, nargs=-1, required=True)
@click.option("--seed", type=click.IntRange(min=0), help="Another seed than the scenario's.")
@click.option("--seeds", type=Seeds(), metavar="1-5", help="Play each scenario once with each of these seeds: 1-5, or 1,4,7-9.")  # fmt: skip
@click.option("-j", "--jobs", type=Jobs(), metavar="N", default=1,
              help="Runs in virtual time at a time, a processor each; auto: one a processor. Those in real time are played alone.")  # fmt: skip
@click.option("--policy", type=_FILE, help="Another policy than the scenario's.")
@click.option("--topology", type=_FILE, help="Another topology than the scenario's.")
@click.option("--links", type=click.Choice(["auto", "netem", "nfqueue"]), default="auto", show_default=True,
              help="What makes delay and loss; auto takes netem where the kernel has it.")  # fmt: skip
@click.option(
    "--results", type=_PATH, help="The folder run folders go to; results/ of the project otherwise."
)
@click.option("--speed", type=click.FloatRange(min=0, min_open=True), default=1.0, show_default=True,
              help="Divides the script's waiting times, never the network's timers.")  # fmt: skip
@click.option("--capture", "captures", multiple=True, metavar="NODE[:PORT]",
              help="Write a pcapng file for Wireshark of what a node (or one port of it) sees; may be repeated.")  # fmt: skip
@click.option(
    "--enforcer", metavar="COMMAND", help="The command line of the enforcer under test instead of ours."
)
@click.option("--clock", type=click.Choice(["real", "virtual"]),
              help="Another clock than the scenario's; virtual needs `allowlab kernel build` once.")  # fmt: skip
@click.option("--world", type=click.Choice(["namespaces", "uml"]),
              help="Namespaces of this kernel, or the lab's own kernel (always so with a virtual clock).")  # fmt: skip
@click.option("--no-report", is_flag=True, help="Score, but draw nothing.")
@click.option("--quiet", is_flag=True, help="No progress.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print the result as JSON; of several runs one object with `runs`.",
)
@click.option("--progress", is_flag=True, hidden=True)  # with --json: what one of several runs is called with
def run(
    scenarios: tuple[Path, ...],
    seeds: tuple[int, ...] | None,
    jobs: int,
    captures: tuple[str, ...],
    no_report: bool,
    quiet: bool,
    as_json: bool,
    progress: bool,
    **given: Any,
) -> None:
    """Play scenarios from their files to their reports.

    Several, or one with --seeds, end in a table, and in the highest exit code of the runs. -j plays them side by side.
    """
    scenario, *others = scenarios
    if others or seeds is not None:
        with mistakes(as_json):
            from testbed import cli_many

            cli_many.check_seeds(seeds, given["seed"])
            wanted = cli_many.wanted_runs(scenarios, seeds, given["clock"], given["world"])
            arguments = cli_many.arguments(captures, no_report, given)
            code = cli_many.play_many(wanted, arguments, jobs, quiet, as_json)
        sys.exit(code)
    with mistakes(as_json):
        from testbed.session import Options, run
        from testbed.session_progress import show

        watcher = show(quiet or (as_json and not progress))
        try:
            result = run(scenario, Options(captures=captures, report=not no_report, **given), watcher)
        finally:
            watcher.close()
    if as_json:
        click.echo(json.dumps(cli_told.result(result)))
    else:
        for line in result.lines or _plain_end(result.outcome, result.reason):
            click.echo(line)
        for detail in result.reason.splitlines()[3:] if result.lines else ():  # the summary has the first two
            click.echo(detail, err=True)
        if not (result.run_dir / "report.html").exists():  # else the summary names it
            click.echo(f"records: {result.run_dir}")
    sys.exit(result.exit_code)


@main.command(short_help="Check scenario, topology and policy files.")
@click.argument("paths", nargs=-1, type=_PATH)
def check(paths: tuple[Path, ...]) -> None:
    """Check scenario, topology and policy files (all of the project's without PATH). Needs no privileges and no lab.

    Mistakes end it with exit code 2. Warnings, about what a policy may say and probably does not mean, do not.
    """
    from testbed.plan.load import check_files

    project = Path(__file__).resolve().parents[1]
    whole = [
        path
        for path in (project / "scenarios", project / "topologies", project / "enforcer")
        if path.is_dir()
    ]
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise Mistake("\n".join(f"{path}: there is no such file or folder" for path in missing))
    checked = check_files(paths or whole)
    for doubt in checked.doubts:
        click.echo(f"warning: {doubt}", err=True)
    if checked.problems:
        raise Mistake("\n".join(str(problem) for problem in checked.problems))
    read = [f"{count} {kind} file{'s'[: count != 1]}" for kind, count in checked.counts.items() if count]
    warned = f"{len(checked.doubts)} warning{'s'[: len(checked.doubts) != 1]} and " if checked.doubts else ""
    click.echo(f"{warned}no problems in {', '.join(read)}")


@main.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[PYTEST ARGUMENTS]")
def test(arguments: tuple[str, ...]) -> None:
    """Run pytest: the tool's own tests, or `test scenarios`."""
    if arguments[:1] in (("-h",), ("--help",)):
        click.echo(cli_help.test_help(command()))
        return
    arguments = tuple("--help" if each == "--pytest-help" else each for each in arguments)
    # The launcher starts pytest without this; here is the way for an installed program, and the line in --help.
    os.chdir(Path(__file__).resolve().parents[1])
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *arguments])


@main.command()
@click.argument("kind", type=click.Choice(["scenario", "topology", "policy"]))
def schema(kind: Any) -> None:
    """Print the JSON Schema of a kind of file, for editors."""
    from testbed.plan.load import json_schema

    click.echo(json.dumps(json_schema(kind), indent=1))


@main.command(short_help="Try out what this machine offers a lab.")
@click.option("--json", "as_json", is_flag=True, help="Print everything found as JSON.")
def doctor(as_json: bool) -> None:
    """Try out what this machine offers a lab; exit code 3 when no lab can run here."""
    from dataclasses import asdict

    from testbed.world import WorldError
    from testbed.world.doctor import can_run, findings, lines, probe

    try:
        capabilities = probe()
    except WorldError as error:
        if as_json:
            click.echo(json.dumps({"can_run": False, "error": str(error)}))
            sys.exit(3)
        raise Impossible(str(error)) from None
    if as_json:
        found = [asdict(finding) for finding in findings(capabilities)]
        click.echo(
            json.dumps(asdict(capabilities) | {"findings": found, "can_run": can_run(capabilities)}, indent=1)
        )
    else:
        click.echo("\n".join(lines(capabilities)))
    sys.exit(0 if can_run(capabilities) else 3)


@main.command(short_help="Score a run folder again and redraw its report.")
@click.argument("run_dir", metavar="RUN", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--quiet", is_flag=True, help="No progress.")
def report(run_dir: Path, quiet: bool) -> None:
    """Score a run folder again and redraw its report: the same records give the same bytes."""
    from testbed.session import finish_killed, score_and_report
    from testbed.session_progress import show

    if not (run_dir / "plan.json").is_file():
        raise Mistake(
            f"{run_dir}: is not a run folder (no plan.json); name one like results/registration/latest"
        )
    watcher = show(quiet)
    try:
        with mistakes():
            try:
                finish_killed(run_dir)
                lines = score_and_report(run_dir, watcher)
            except PermissionError as error:
                raise Mistake(_not_writable(run_dir, Path(error.filename or run_dir))) from None
    finally:
        watcher.close()
    click.echo("\n".join(lines))


@main.command(short_help="Play a run in virtual time again and compare.")
@click.argument("run_dir", metavar="RUN", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--quiet", is_flag=True, help="No progress.")
def verify(run_dir: Path, quiet: bool) -> None:
    """Play a run in virtual time again: identical, or the first difference (exit code 1)."""
    from testbed.session_progress import show

    watcher = show(quiet)
    try:
        with mistakes():
            from testbed.session_verify import other_kernel, verify

            difference, other = verify(run_dir.resolve(), watcher), other_kernel(run_dir.resolve())
    finally:
        watcher.close()
    if difference is not None:
        raise click.ClickException(f"not identical: {difference}{other and '; ' + other}")
    click.echo(f"identical: every record and the summary, byte for byte{other and '; ' + other}")


main.add_command(kernel)
for _each in LAB_COMMANDS:
    main.add_command(_each)


def _not_writable(run_dir: Path, path: Path) -> str:
    """Whose a run folder is, and what somebody else can do."""
    try:
        owner = path.owner() if path.exists() else run_dir.owner()
    except KeyError:
        owner = f"user {run_dir.stat().st_uid}"
    return (
        f"{path}: cannot be written by you: it belongs to {owner}; call this as {owner}, or copy the folder and name the copy: "
        f"cp -r {run_dir} /tmp/run && {command()} report /tmp/run"
    )


def _plain_end(outcome: str, reason: str) -> list[str]:
    return [f"{outcome}: {reason}" if reason else outcome]


if __name__ == "__main__":
    main(prog_name=command(), complete_var="_ALLOWLAB_COMPLETE")
