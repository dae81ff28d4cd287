"""The invariants of a finished job, whatever was done to it."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

from faults.job_folder import ANSWER_COLUMNS, DAY, SHARDS, JobFolder, Undisturbed, read_answers
from faults.kills import JobOutcome

from docmill.data import storage
from docmill.data.layout import INTERNAL
from docmill.data.plan import read_plan


def check_answers(outcome: JobOutcome, job: JobFolder, right: Undisturbed) -> None:
    """Every (document, task) once, with the right answer; and the report's counts add up."""
    for task, column in ANSWER_COLUMNS.items():
        answers = read_answers(job, task)
        counts = Counter(answers["doc_id"])
        outcome.lost += sum(doc_id not in counts for doc_id in right.doc_ids)
        outcome.doubled += sum(number - 1 for number in counts.values())
        wanted = {row["doc_id"]: row for row in right.answers[task].to_dicts()}
        different = [row["doc_id"] for row in answers.to_dicts() if row != wanted.get(row["doc_id"])]
        outcome.unequal += len(different)
        if different:
            outcome.problems.append(f"{task}.{column} differs for {different[:3]}")
        if answers["doc_id"].to_list() != right.doc_ids and set(counts) == set(right.doc_ids):
            outcome.problems.append(f"{task}: rows are not in input order")
    report = json.loads(storage.read_bytes(job.layout.report))
    for task in ANSWER_COLUMNS:
        rows = report["tasks"][task]["counts"]
        balanced = rows["rows"] == rows["ok"] + rows["failed"] + rows["skipped"] == len(right.doc_ids)
        outcome.unbalanced += not balanced


def check_objects(outcome: JobOutcome, job: JobFolder) -> None:
    """Nothing lies in the output but answers, plan, report and page, manifest, profile and requests for later runs.

    No upload was left half done.
    """
    internal = {f"{INTERNAL}/dt={DAY}/{name}" for name in ("plan.parquet", "report.json", "manifest.json")}
    plan, _ = read_plan(job.layout.plan)
    assert plan is not None
    internal.add(job.layout.kept_answers(plan.id).removeprefix(f"{job.output_uri}/"))
    wanted = internal | {
        f"{task}/dt={DAY}/part-{number:04}.parquet" for task in ANSWER_COLUMNS for number in range(SHARDS)
    }
    found = set(all_objects(job.output_uri))
    # Written after the manifest, so that a kill between the two costs them, and nothing else.
    afterwards = {f"{INTERNAL}/profile.json", f"{INTERNAL}/dt={DAY}/report.html"}
    outcome.left_objects += sorted(found - wanted - afterwards)
    outcome.problems += [f"missing: {name}" for name in sorted(wanted - found)]


def all_objects(uri: str) -> list[str]:
    """Every file below, hidden ones included, and every unfinished upload."""
    if not uri.startswith("s3://"):
        root = Path(uri)
        return [
            str((Path(folder) / name).relative_to(root))
            for folder, _, names in os.walk(root)
            for name in names
        ]
    import boto3

    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    client = boto3.client("s3")
    try:
        uploads = client.list_multipart_uploads(Bucket=bucket, Prefix=prefix + "/").get("Uploads", [])
    finally:
        client.close()
    return [file.name for file in storage.list_files(uri)] + [
        f"unfinished upload of {upload['Key'].removeprefix(prefix + '/')}" for upload in uploads
    ]
