"""A compressed model for a job: made on some of its documents, judged on others, published only if it holds.

halves.py         two samples of a partition that share no text: one to make it on, one to judge it on
recording.py      what the source model was asked and what it answered, for calibration
candidates.py     a recipe's checkpoints, the smallest first
corpus_tokens.py  which tokens a trimmed vocabulary has to keep
runs.py           runs over one half, with one model or the other
quality.py        how much of a task's quality a candidate loses, and how sure that is
compress_job.py   the way from a job to a published model; read it first
made.py           the model that was made, for who uses it
report.py         its figures
"""
