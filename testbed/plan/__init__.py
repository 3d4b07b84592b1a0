"""Reads and checks scenario, topology and policy files; resolves them into one frozen plan. Pure."""
