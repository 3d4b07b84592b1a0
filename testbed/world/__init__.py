"""The private kernel network a lab runs in, and the probe of what the kernel offers."""
