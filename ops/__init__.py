"""How each step of a job is done, without Dagster. `partition_job` is the heart; start there."""
