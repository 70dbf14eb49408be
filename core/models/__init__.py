"""Models: teachers that were registered and students that jobs produced."""
