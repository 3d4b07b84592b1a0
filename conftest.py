"""In a checkout that is not installed, pytest finds the scenario plugin here; installed, by its entry point."""

from importlib.metadata import entry_points

if not any(point.value == "testbed.pytest_plugin" for point in entry_points(group="pytest11")):
    pytest_plugins = ["testbed.pytest_plugin"]
