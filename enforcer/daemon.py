"""From a configuration file to a running agent."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from enforcer import control
from enforcer.agent import Agent
from enforcer.audit import Audit
from enforcer.config import Config, load_config
from enforcer.dataplanes import Dataplane
from enforcer.policy import Policy, load_policy
from enforcer.registry.feed import load_public_key


def run_agent(config_file: Path) -> None:
    """Until SIGTERM or SIGINT. Raises FileError, ValueError, OSError, DataplaneError before anything is enforced."""
    config = load_config(config_file)
    policy = load_policy(config.policy)
    key = load_public_key(config.feed_key)
    dataplane = open_dataplane(config, policy)
    audit = Audit(config.audit)
    try:
        asyncio.run(_serve(Agent(config, policy, dataplane, key, audit), config))
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


async def _serve(agent: Agent, config: Config) -> None:
    def reload() -> dict[str, Any]:
        agent.reload("control")
        return agent.status()

    server = await control.serve(config.control, {"status": agent.status, "reload": reload})
    try:
        await agent.run()
    finally:
        server.close()
        config.control.unlink(missing_ok=True)
