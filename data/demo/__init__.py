"""The demo corpus: customer messages in German and Chinese with their right answers, and bad rows for tests.

Benchmarks, tests and the tutorial take their documents from here; `model/` (a folder of files, no package)
holds the small model that was trained to answer them on a CPU.
"""

from docmill.data.demo.batches import DEMO_SCHEMA, demo_batches
from docmill.data.demo.corpus import LABELS, LANGUAGES, NO_KEY_SUMMARY, DemoDocument, demo_documents
from docmill.data.demo.hostile import HostileDocument, hostile_documents

__all__ = [
    "DEMO_SCHEMA",
    "LABELS",
    "LANGUAGES",
    "NO_KEY_SUMMARY",
    "DemoDocument",
    "HostileDocument",
    "demo_batches",
    "demo_documents",
    "hostile_documents",
]
