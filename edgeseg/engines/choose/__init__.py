"""Choice of a device's engine: candidates, their checks, their times, and the choice."""
