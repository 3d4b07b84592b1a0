"""Nodes, links, routing, VPN servers, services and witnesses of a running lab."""
