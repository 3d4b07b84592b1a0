"""`enforcer explain`: why something was stopped, what is decided about a flow, and what would have to change for it to pass."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from enforcer.mistake import Mistake, unreadable
from enforcer.yamlfile import FileError

_PATH = click.Path(path_type=Path)


@click.command(short_help="Say what is decided about a flow, and what would change it.")
@click.argument("src", required=False)
@click.argument("dst", required=False)
@click.option(
    "--proto", help="wireguard, openvpn-udp, …, or udp, tcp, esp, ah, gre; left out: all the policy governs"
)
@click.option("--port", type=int, help="the server's port; left out: the protocol's customary one")
@click.option(
    "--at",
    help="when: 2024-11-10T16:00:00Z; left out: now. Judged by the list of that time where it is known, else by the newest, and says which",
)
@click.option(
    "--config",
    "config_file",
    type=_PATH,
    help="the enforcer's configuration: its policy, the list it keeps, its audit, and what it says when it runs",
)
@click.option("--policy", "policy_file", type=_PATH, help="a policy, instead of --config")
@click.option(
    "--snapshot",
    "snapshot_file",
    type=_PATH,
    help="a feed snapshot, signed or not, with --policy",
)
@click.option(
    "--ledger",
    "ledger_file",
    type=_PATH,
    help="the registry's ledger or a copy: with --at it has the list of any time; with --policy, instead of --snapshot",
)
@click.option(
    "--audit",
    "audit_file",
    type=_PATH,
    help="an audit file: what was stopped between these two",
)
@click.option(
    "--audit-key",
    "key_file",
    type=_PATH,
    help="the key of an audit with keyed words for addresses",
)
@click.option(
    "--around",
    default="30s",
    show_default=True,
    help="how far from --at a stopped packet of the audit may be",
)
@click.option("--src", "src_option", help="with --audit: the address the packets came from, or its word")
@click.option("--dst", "dst_option", help="with --audit: the address they went to, or its word")
@click.option(
    "--packet", help='SRC, DST, --proto and --port in one: "SRC DST udp|tcp PORT", "SRC DST esp|ah|gre"'
)
@click.option("--json", "as_json", is_flag=True, help="as one JSON object")
@click.option("--reasons", is_flag=True, help="list the words for reasons and what they mean")
def explain(reasons: bool, as_json: bool, **options: Any) -> None:
    """What is decided about a flow from SRC to DST: which entry, rule and serial, and what would have to change for it to pass.

    With --config or --audit also what was stopped between the two, and why.
    """
    from enforcer.explain import reasons as all_reasons

    if reasons:
        click.echo(all_reasons())
        return
    try:
        found = _found(**options)
    except OSError as error:
        raise Mistake(unreadable(error) or error) from error
    except (FileError, ValueError) as error:
        raise Mistake(error) from error
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2))
    else:
        click.echo(found.text())


def _found(
    src: str | None,
    dst: str | None,
    proto: str | None,
    port: int | None,
    at: str | None,
    config_file: Path | None,
    policy_file: Path | None,
    snapshot_file: Path | None,
    ledger_file: Path | None,
    audit_file: Path | None,
    key_file: Path | None,
    around: str,
    src_option: str | None,
    dst_option: str | None,
    packet: str | None,
) -> Any:
    from enforcer.explain import Explanation, stopped, unix_ns
    from enforcer.explain_flow import answer
    from enforcer.explain_then import at_time, from_ledger
    from enforcer.known import from_config, from_files
    from enforcer.privacy import load_key
    from enforcer.question import questions

    src, dst = src or src_option, dst or dst_option
    if packet:
        src, dst, proto, port = _packet(packet)
    if ledger_file and not at and (config_file or snapshot_file or not policy_file):
        raise ValueError("--ledger: write it with --at TIME, or with --policy alone")
    known = None
    if config_file:
        known = from_config(config_file)
    elif policy_file and ledger_file and not snapshot_file:
        known = from_ledger(policy_file, ledger_file)
    elif policy_file:
        known = from_files(policy_file, snapshot_file)
    if known is None and audit_file is None:
        raise ValueError(
            "write SRC DST with --config FILE, or with --policy FILE --snapshot FILE; or --audit FILE --src ADDRESS; or --reasons"
        )
    at_ns = unix_ns(at) if at else None
    key = load_key(key_file) if key_file else known.audit_key if known else None
    audit = audit_file or (known.audit if known and known.audit and known.audit.exists() else None)
    answers, decides = (), None
    if known is not None:
        if not (src and dst):
            raise ValueError("write two addresses: enforcer explain SRC DST")
        asked, now_ns = questions(src, dst, proto, port, known.policy), time.time_ns()
        decides = known if at_ns is None else at_time(known, at_ns, now_ns, audit, ledger_file)
        answers = tuple(answer(each, decides, now_ns if at_ns is None else at_ns) for each in asked)
    stops = stopped(audit, src, dst, at_ns, around, key, known) if audit else None
    return Explanation(answers, decides, stops, at)


def _packet(text: str) -> tuple[str, str, str, int | None]:
    words = text.split()
    if len(words) not in (3, 4) or (len(words) == 4 and not words[3].isdecimal()):
        raise ValueError(
            f"{text!r} is not a packet; write 'SRC DST udp PORT', 'SRC DST tcp PORT' or 'SRC DST esp'"
        )
    return words[0], words[1], words[2], int(words[3]) if len(words) == 4 else None
