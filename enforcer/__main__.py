"""`python -m enforcer`."""

from enforcer.cli import main

main(prog_name="enforcer")
