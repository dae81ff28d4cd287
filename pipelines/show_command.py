"""`docmill show`: answers beside their documents, as a table or as JSON."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from docmill.data.layout import Layout
from docmill.data.records import Partition
from docmill.ops.job import Job
from docmill.pipelines.answer_rows import AnsweredDocument, answer_text, clip, read_answered_documents
from docmill.pipelines.choices import choose_partition, choose_tasks
from docmill.pipelines.console import print_json, stdout_console
from docmill.pipelines.exit_codes import WrongUsage
from docmill.pipelines.job_files import load_job

if TYPE_CHECKING:
    from rich.console import Console

DOCUMENT_CHARS, ANSWER_CHARS = 300, 300


def show_command(
    job_name: str,
    *,
    partition_value: str | None,
    tasks: list[str] | None,
    limit: int,
    failed_only: bool,
    as_json: bool,
) -> None:
    """Show a partition's first answers, or its first failed ones."""
    job = load_job(job_name)
    partition = choose_partition(job, partition_value)
    chosen = choose_tasks(job, ",".join(tasks)) if tasks else None
    if as_json:
        print_json(
            answers_as_json(read_rows(job, partition, tasks=chosen, limit=limit, failed_only=failed_only))
        )
    else:
        show_answers(stdout_console(), job, partition, tasks=chosen, limit=limit, failed_only=failed_only)


def show_answers(
    console: Console,
    job: Job,
    partition: Partition,
    *,
    tasks: list[str] | None = None,
    limit: int = 10,
    failed_only: bool = False,
) -> None:
    """Print a table: a row a document, a column a task."""
    from rich.box import ROUNDED
    from rich.table import Table
    from rich.text import Text

    documents = read_rows(job, partition, tasks=tasks, limit=limit, failed_only=failed_only)
    names = tasks or list(job.tasks)
    table = Table(box=ROUNDED, show_lines=True, expand=False)
    table.add_column("document", ratio=3, overflow="fold")
    for name in names:
        table.add_column(name, ratio=2, overflow="fold")
    for document in documents:
        text = clip(_text(document), max_chars=DOCUMENT_CHARS)
        cells = [Text(f"{clip(document.doc_id, max_chars=60)}\n", style="dim").append(text, style="default")]
        for name in names:
            answer = document.answers.get(name)
            if answer is None:
                cells.append(Text("not run yet", style="dim"))
                continue
            shown = clip(answer_text(job.tasks[name].columns, answer), max_chars=ANSWER_CHARS)
            cells.append(Text(shown, style={"failed": "red", "skipped": "yellow"}.get(answer["status"], "")))
        table.add_row(*cells)
    console.print(table if documents else "no document has a failed task")


def answers_as_json(documents: list[AnsweredDocument]) -> list[dict[str, Any]]:
    """Whole texts and all columns of the answers, for programs."""
    return [
        {
            "shard": document.shard,
            "row": document.row,
            "doc_id": document.doc_id,
            "text": document.text,
            "answers": document.answers,
        }
        for document in documents
    ]


def read_rows(
    job: Job, partition: Partition, *, tasks: list[str] | None, limit: int, failed_only: bool
) -> list[AnsweredDocument]:
    """The first rows, or the first with a failed task. Raises `WrongUsage` where there are no answers at all."""
    found = list(islice(read_answered_documents(job, partition, tasks=tasks, failed_only=failed_only), limit))
    if found or (failed_only and any(True for _ in read_answered_documents(job, partition, tasks=tasks))):
        return found
    folder = Layout(job.output.uri, partition).answers_folder((tasks or list(job.tasks))[0])
    option = f" --partition {partition.value}" if partition.value else ""
    raise WrongUsage(f"there are no answers in {folder} yet; make them with `docmill run {job.name}{option}`")


def _text(document: AnsweredDocument) -> str:
    return document.text if document.text is not None else "(no text, or the shard has changed since)"
