"""Open-loop probes, real VPN sessions and bulk load."""
