"""Files, tensors, console output, schedules and timing."""
