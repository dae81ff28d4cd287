"""What exists and when it runs: jobs, Dagster assets, the command line. The only folder that knows Dagster."""
