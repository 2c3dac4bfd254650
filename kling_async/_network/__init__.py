"""What is shared by all connections that the package opens."""
