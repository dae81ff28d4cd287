"""Who runs the workers of a job: this process (`inline`) or actors on Ray. Same work, same answers for each."""
