"""`allowlab up`, `exec`, `shell`, `ps`, `down` and `graph`: a topology to look at, and a lab of it that is left running."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from testbed import command
from testbed.cli_errors import mistakes

_PATH = click.Path(path_type=Path)
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_name = click.option("--name", help="Which lab, when there are several (its name is its topology's).")


@click.command()
@click.argument("topology", type=_FILE)
@click.option("--policy", type=_FILE, help="Put enforcers with this policy on the gateways.")
@click.option("--name", help="What to call the lab; its topology's name otherwise.")
@click.option("--links", type=click.Choice(["auto", "netem", "nfqueue"]), default="auto", show_default=True)
@click.option(
    "--capture", "captures", multiple=True, metavar="NODE[:PORT]", help="Capture to pcapng; may be repeated."
)
@click.option("--quiet", is_flag=True, help="No progress.")
def up(
    topology: Path, policy: Path | None, name: str | None, links: Any, captures: tuple[str, ...], quiet: bool
) -> None:
    """Start a lab and leave it running."""
    from testbed.session_progress import show

    watcher = show(quiet)
    try:
        with mistakes():
            from testbed.lab import interactive

            lab = interactive.up(
                topology, policy, name=name, links=links, captures=captures, on_progress=watcher.phase
            )
    finally:
        watcher.close()
    if warning := interactive.warning(lab.folder):
        click.echo(warning, err=True)
    typed = command()
    click.echo(f"lab '{lab.name}' is up: {typed} ps; {typed} exec NODE -- CMD; {typed} shell; {typed} down")


@click.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("node")
@click.argument("argv", nargs=-1, required=True, metavar="-- CMD…", type=click.UNPROCESSED)
@_name
def exec_(node: str, argv: tuple[str, ...], name: str | None) -> None:
    """Run a program on a node of a running lab."""
    with mistakes():
        from testbed.lab import interactive

        sys.exit(interactive.execute(node, argv, name))


@click.command()
@_name
def shell(name: str | None) -> None:
    """Mininet's command line on a running lab."""
    with mistakes():
        from testbed.lab import interactive

        sys.exit(interactive.shell(name))


@click.command()
@_name
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def ps(name: str | None, as_json: bool) -> None:
    """Show a running lab's nodes, addresses, programs and links."""
    with mistakes():
        from testbed.lab import interactive

        sys.exit(interactive.show(name, as_json=as_json))


@click.command()
@_name
def down(name: str | None) -> None:
    """End a running lab."""
    with mistakes():
        from testbed.lab import interactive

        lab = interactive.find(name, must_run=False)
        was_running = lab.is_running
        captures = interactive.down(lab.name)
    click.echo(f"lab '{lab.name}' {'is down' if was_running else 'had ended by itself; it is cleared away'}")
    for capture in captures:
        click.echo(f"capture: {capture}")


@click.command()
@click.argument("topology", type=_FILE)
@click.option("--policy", type=_FILE, help="Show where the enforcers of this policy stand.")
@click.option("--format", "form", type=click.Choice(["svg", "mermaid"]), default="svg", show_default=True)
@click.option("--output", "-o", type=_PATH, help="Write to this file instead of standard output.")
def graph(topology: Path, policy: Path | None, form: str, output: Path | None) -> None:
    """Draw a topology."""
    with mistakes():
        from testbed.lab import graph, graph_mermaid
        from testbed.plan.load import load_topology_plan

        plan = load_topology_plan(topology, policy)
        text = graph.to_svg(plan) if form == "svg" else graph_mermaid.to_mermaid(plan)
        if output:
            output.write_text(text, encoding="utf-8")
        else:
            click.echo(text, nl=False)


LAB_COMMANDS: tuple[click.Command, ...] = (up, exec_, shell, ps, down, graph)
