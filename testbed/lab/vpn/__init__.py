"""Real VPN servers and clients in the lab."""

from testbed.lab.vpn.client import OuterFlow, VpnClient
from testbed.lab.vpn.servers import VpnServers
from testbed.lab.vpn.site import VpnFailed, VpnUnavailable

__all__ = ["OuterFlow", "VpnClient", "VpnFailed", "VpnServers", "VpnUnavailable"]
