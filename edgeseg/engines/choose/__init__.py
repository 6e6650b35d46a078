"""Which engine a device uses: candidates, their checks, their times, and the choice."""
