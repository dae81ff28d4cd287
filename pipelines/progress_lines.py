"""A run's progress in words: for log lines, Dagster's event log, and wherever there is no terminal."""

from __future__ import annotations

from docmill.ops.progress import Progress


def progress_line(progress: Progress) -> str:
    """`running: 1,200 of 10,000 documents, 3,456 tokens/s, about 2 min left`."""
    if not progress.num_documents_total:
        return progress.stage
    parts = [f"{progress.num_documents_done:,} of {progress.num_documents_total:,} documents"]
    if progress.num_documents_done or progress.num_output_tokens:
        parts.append(f"{progress.tokens_per_second:,.0f} tokens/s")
    if progress.eta_seconds is not None and progress.num_documents_done < progress.num_documents_total:
        parts.append(f"about {duration(progress.eta_seconds)} left")
    return f"{progress.stage}: {', '.join(parts)}"


def duration(seconds: float) -> str:
    """`12 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
