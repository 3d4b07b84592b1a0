"""What a change of policy or allowlist does to traffic, exactly and beforehand: `enforcer diff`."""
