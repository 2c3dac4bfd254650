"""What people see of running tasks and of their videos."""
