"""What people see of the registry: accounts, sessions, forms, texts and pages. Plain HTML that needs no script."""
