"""From a configuration file to a running agent."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from enforcer import control, metrics, privileges, starting
from enforcer.agent import Agent
from enforcer.audit import Audit
from enforcer.config import Config, load_config
from enforcer.dataplanes import Dataplane
from enforcer.policy import Policy, load_policy
from enforcer.privacy import Addresses, load_key
from enforcer.registry.feed import load_public_key
from enforcer.status import status
from enforcer.thrifty import run


def run_agent(config_file: Path) -> None:
    """Until SIGTERM or SIGINT. Raises FileError, ValueError, OSError, DataplaneError before anything is enforced."""
    config = load_config(config_file)
    policy = load_policy(config.policy)
    key = load_public_key(config.feed_key)
    addresses = Addresses(policy.audit, load_key(config.audit_key) if config.audit_key else None)
    for warning in starting.warnings(config):
        starting.say(warning)
    with _alone():
        _go_on_as_little(config)
        dataplane = open_dataplane(config, policy)
        privileges.only(privileges.RUNNING[config.dataplane])
        audit = Audit(
            config.audit, most_bytes=config.audit_bytes, most_files=config.audit_files, addresses=addresses
        )
        try:
            run(_serve(Agent(config, policy, dataplane, key, audit), config), not config.is_watchful)
        finally:
            dataplane.close()
            audit.close()


def open_dataplane(config: Config, policy: Policy) -> Dataplane:
    """Raises DataplaneError, which says what is missing."""
    if config.dataplane == "nft":
        from enforcer.dataplanes.nft import NftDataplane

        return NftDataplane(policy, config.log_group, config.most_cells)
    if config.dataplane == "nfqueue":
        from enforcer.dataplanes.nfqueue import NfqueueDataplane

        return NfqueueDataplane(policy, config.log_group, config.most_cells)
    from enforcer.dataplanes.bpf import BpfDataplane

    return BpfDataplane(policy, config.inside, config.most_cells)


def _go_on_as_little(config: Config) -> None:
    """Before there is a second thread: capabilities belong to each of them."""
    keep = privileges.STARTING[config.dataplane]
    folders = (config.state, config.audit.parent, config.control.parent)
    made = [folder for folder in folders if not folder.exists()]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    if config.user is None or os.geteuid() != 0:
        privileges.only(keep)
        return
    mine = [*made, config.state, *config.state.iterdir(), *config.audit.parent.glob(f"{config.audit.name}*")]
    privileges.become(config.user, mine, keep)
    if not (os.access(os.__file__, os.R_OK) and os.access(__file__, os.R_OK)):
        raise ValueError(
            f"{config.user} cannot read {os.__file__} and {__file__}; install Python and the enforcer where everybody may, such as /opt"
        )
    for folder in folders:
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ValueError(
                f"{config.user} may not write in {folder}; make it the user's: chown {config.user} {folder}"
            )


@contextmanager
def _alone() -> Iterator[None]:
    """One agent a network namespace, be it ever so hung: two would undo each other's rules. Raises ValueError.

    An abstract socket's name belongs to its network namespace and goes with the process that holds it (unix(7)).
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as holding:
        try:
            holding.bind("\0allowlist-enforcer")
        except OSError as error:
            raise ValueError(
                "another enforcer runs in this network namespace (`ss -xlp | grep allowlist-enforcer` names it); stop it first"
            ) from error
        holding.listen(1)
        yield


async def _serve(agent: Agent, config: Config) -> None:
    def told() -> dict[str, Any]:
        return status(agent)

    async def reload() -> dict[str, Any]:
        await agent.reload_aside("control")
        return status(agent)

    commands = {"status": told, "reload": reload, "metrics": lambda: metrics.render(told()).decode()}
    servers = [await control.serve(config.control, commands)]
    if config.metrics is not None:
        servers.append(await metrics.serve(config.metrics, told))
    telling = asyncio.create_task(starting.tell(agent))
    try:
        await agent.run()
    finally:
        telling.cancel()
        for server in servers:
            server.close()
        config.control.unlink(missing_ok=True)
