"""The private kernel network a lab runs in, and the probe of what the kernel offers."""

from testbed.world.world import IN_WORLD, World, WorldError, open_world, run_inside

__all__ = ["IN_WORLD", "World", "WorldError", "open_world", "run_inside"]
