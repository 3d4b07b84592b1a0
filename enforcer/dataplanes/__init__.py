"""Where packets are decided in a real kernel; every dataplane agrees with enforcer.decide."""
