"""The allowlist enforcer: usable on a real Linux router, without the test-bed."""
