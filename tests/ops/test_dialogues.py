"""All questions under way: their order, their limit, and that what goes wrong stays in its row."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Generator
from typing import Any, ClassVar

import pyarrow as pa
import pytest

from docmill.data.records import Status
from docmill.engine.fake_engine import FakeEngine
from docmill.engine.types import Request, RequestError
from docmill.ops.chunking import Chunk
from docmill.ops.dialogues import Dialogues, Finished
from docmill.ops.prompts import Prompts
from docmill.ops.tasks import Classify, Summarize, Translate
from docmill.ops.tasks.task import Task

TASKS: dict[str, Task] = {
    "translations": Translate(kind="translate"),
    "classifications": Classify(kind="classify", labels=["a", "b"]),
    "summaries": Summarize(kind="summarize"),
}


def chunks_of(prompts: Prompts, *texts: str) -> list[Chunk]:
    ids = prompts.tokenizer.encode_data(texts)
    return [Chunk(text, array("i", each), " ") for text, each in zip(texts, ids, strict=True)]


def run_to_end(dialogues: Dialogues[Any]) -> dict[tuple[Any, str], Finished[Any]]:
    finished: dict[tuple[Any, str], Finished[Any]] = {}
    for _ in range(100_000):
        dialogues.pump()
        for each in dialogues.collect(0.0):
            assert (each.key, each.task_name) not in finished, "answered twice"
            finished[each.key, each.task_name] = each
        if not dialogues.num_open:
            return finished
    raise AssertionError("no end")


def test_requests_of_a_chunk_are_adjacent_and_share_its_prefix(
    prompts: Prompts, scripted: Callable[..., Any]
) -> None:
    engine = scripted()
    dialogues: Dialogues[str] = Dialogues(engine, prompts, TASKS, max_in_flight=100)
    dialogues.start("long", chunks_of(prompts, "erster Teil", "zweiter Teil"))
    dialogues.start("short", chunks_of(prompts, "kurz"))
    dialogues.pump()
    assert [asked.text for asked in engine.asked] == ["erster Teil"] * 3 + ["zweiter Teil"] * 3 + ["kurz"] * 3
    assert len({asked.instruction for asked in engine.asked[:3]}) == 3


def test_the_longest_expected_answer_of_a_document_is_asked_first_by_what_has_come(
    prompts: Prompts, scripted: Callable[..., Any]
) -> None:
    """Said to be longest: the translation. Found to be longest: the summary."""
    engine = scripted(
        lambda asked: (
            "a b c d e f g h " * 20
            if "Summarize" in asked.instruction
            else (1.0, 2.0)
            if "label" in asked.instruction
            else "x"
        ),
        order="oldest first",
    )
    dialogues: Dialogues[int] = Dialogues(engine, prompts, TASKS, max_in_flight=30)
    text = "Die Lampe aus der letzten Bestellung ist leider zerbrochen angekommen. " * 8
    for number in range(40):
        dialogues.start(number, chunks_of(prompts, f"{number} {text}"))
        run_to_end(dialogues)
    words = [asked.instruction.split()[0] for asked in engine.asked]
    assert words[:3] == ["Translate", "Summarize", "Which"]
    assert words[-3:] == ["Summarize", "Translate", "Which"]


@pytest.mark.parametrize("order", ["oldest first", "newest first"])
def test_answers_belong_to_their_document_and_task_in_any_order(
    prompts: Prompts, scripted: Callable[..., Any], order: str
) -> None:
    engine = scripted(
        lambda asked: f"{asked.text}!" if "Translate" in asked.instruction else None, order=order
    )
    dialogues: Dialogues[int] = Dialogues(engine, prompts, TASKS, max_in_flight=7)
    for number in range(30):
        dialogues.start(number, chunks_of(prompts, f"Text {number}", f"Rest {number}"))
    finished = run_to_end(dialogues)
    assert len(finished) == 30 * 3
    for number in range(30):
        answer = finished[number, "translations"].answer
        assert answer.status is Status.OK
        assert answer.fields == {"translation": f"Text {number}! Rest {number}!"}


def test_never_more_than_the_limit_are_in_flight(prompts: Prompts, scripted: Callable[..., Any]) -> None:
    engine = scripted()
    dialogues: Dialogues[int] = Dialogues(engine, prompts, TASKS, max_in_flight=5)
    for number in range(20):
        dialogues.start(number, chunks_of(prompts, f"Text {number}", "Rest"))
    assert not dialogues.wants_more
    run_to_end(dialogues)
    assert engine.most_in_flight == 5
    assert dialogues.wants_more


def test_a_further_round_goes_before_what_has_waited_longer(
    prompts: Prompts, scripted: Callable[..., Any]
) -> None:
    engine = scripted(order="oldest first")
    dialogues: Dialogues[int] = Dialogues(
        engine, prompts, {"s": Summarize(kind="summarize")}, max_in_flight=2
    )
    dialogues.start(0, chunks_of(prompts, "a", "b"))
    for number in range(1, 5):
        dialogues.start(number, chunks_of(prompts, f"Text {number}"))
    run_to_end(dialogues)
    texts = [asked.text for asked in engine.asked]
    assert texts.index("a\nb") < texts.index("Text 4")


def test_an_errored_request_fails_its_row_and_no_other(
    prompts: Prompts, scripted: Callable[..., Any]
) -> None:
    def answer(asked: Any) -> Any:
        if asked.text == "zweiter Teil" and "Translate" in asked.instruction:
            return RequestError("engine_error", "it broke")
        return None

    dialogues: Dialogues[str] = Dialogues(scripted(answer), prompts, TASKS, max_in_flight=100)
    dialogues.start("bad", chunks_of(prompts, "erster Teil", "zweiter Teil", "dritter Teil"))
    dialogues.start("good", chunks_of(prompts, "kurz"))
    finished = run_to_end(dialogues)

    failed = finished["bad", "translations"].answer
    assert (failed.status, failed.error, failed.reason) == (
        Status.FAILED,
        "engine_error: it broke",
        "engine_error",
    )
    assert failed.fields == {}
    assert failed.finish_reason is None
    assert failed.usage.num_prompt_tokens > 0, "what the other chunks cost is counted"
    assert {key for key, each in finished.items() if each.answer.status is not Status.OK} == {
        ("bad", "translations")
    }


class Buggy(Task):
    """Breaks where its document says so."""

    columns: ClassVar[list[pa.Field]] = [pa.field("answer", pa.string())]
    kind: str = "buggy"

    def ask(self, chunks: list[Chunk], prompts: Prompts) -> Generator[Any, Any, Any]:
        if chunks[0].text == "at once":
            raise KeyError("secret text of the document")
        if chunks[0].text == "asks nothing":
            yield []
        completions = yield from Translate(kind="translate").ask(chunks, prompts)
        if chunks[0].text == "afterwards":
            raise ZeroDivisionError
        return {"answer": completions["translation"]}

    def estimate_output_tokens(self, num_text_tokens: float) -> float:
        return num_text_tokens

    def max_chunk_tokens(self, prompts: Prompts, max_model_len: int) -> int:
        return max_model_len // 2


@pytest.mark.parametrize("text", ["at once", "afterwards", "asks nothing"])
def test_a_bug_in_a_task_fails_its_row_and_no_other(
    prompts: Prompts, scripted: Callable[..., Any], text: str, caplog: pytest.LogCaptureFixture
) -> None:
    tasks = {"buggy": Buggy(), "translations": TASKS["translations"]}
    dialogues: Dialogues[str] = Dialogues(scripted(), prompts, tasks, max_in_flight=100)
    for each in ("good", text, "fine"):
        dialogues.start(each, chunks_of(prompts, each))
    finished = run_to_end(dialogues)
    assert len(finished) == 6, "every row has an answer for every task"
    failed = {key for key, each in finished.items() if each.answer.status is Status.FAILED}
    assert failed == {(text, "buggy")}
    assert finished[text, "buggy"].answer.reason == "task_error"
    assert "secret" not in finished[text, "buggy"].answer.error + caplog.text


def test_what_an_answer_cost_is_added_up_over_its_requests(prompts: Prompts) -> None:
    dialogues: Dialogues[str] = Dialogues(FakeEngine(), prompts, TASKS, max_in_flight=100)
    dialogues.start("long", chunks_of(prompts, "erster Teil", "zweiter Teil"))
    dialogues.start("short", chunks_of(prompts, "kurz"))
    finished = run_to_end(dialogues)
    usages = [each.answer.usage for each in finished.values()]
    assert dialogues.usage.num_prompt_tokens == sum(usage.num_prompt_tokens for usage in usages)
    assert dialogues.usage.num_output_tokens == sum(usage.num_output_tokens for usage in usages)
    asked = dict.fromkeys(TASKS, 0)
    for (_, task), each in finished.items():
        asked[task] += each.answer.num_requests
    assert asked == {"translations": 3, "classifications": 3, "summaries": 4}
    assert dialogues.num_answered == 10


def test_an_answer_that_was_cut_off_says_so(prompts: Prompts, scripted: Callable[..., Any]) -> None:
    tasks = {"t": Translate(kind="translate", max_output_tokens=3)}
    dialogues: Dialogues[str] = Dialogues(
        scripted(lambda asked: "viele viele Worte" if asked.text == "a" else "x"),
        prompts,
        tasks,
        max_in_flight=9,
    )
    dialogues.start("cut", chunks_of(prompts, "a", "b"))
    dialogues.start("whole", chunks_of(prompts, "b"))
    finished = run_to_end(dialogues)
    assert finished["cut", "t"].answer.finish_reason == "length"
    assert finished["whole", "t"].answer.finish_reason == "stop"


def test_the_key_of_an_answer_depends_on_what_was_asked_alone(prompts: Prompts) -> None:
    keys = []
    for texts in (["a"], ["a"], ["b"], ["a", "b"]):
        dialogues: Dialogues[int] = Dialogues(FakeEngine(), prompts, TASKS, max_in_flight=9)
        dialogues.start(0, chunks_of(prompts, *texts))
        keys.append([each.answer.request_key for each in run_to_end(dialogues).values()])
    assert keys[0] == keys[1]
    assert not set(keys[0]) & set(keys[2])
    assert len({*keys[0], *keys[2], *keys[3]}) == 9


def test_answers_to_an_earlier_run_on_the_same_engine_are_not_taken_for_ours(prompts: Prompts) -> None:
    """A run that ended early (a store that went away) leaves requests in an engine that is used again."""
    engine = FakeEngine()
    earlier: Dialogues[int] = Dialogues(engine, prompts, TASKS, max_in_flight=100)
    for number in range(5):
        earlier.start(number, chunks_of(prompts, f"from earlier {number}"))
    earlier.pump()
    alone: Dialogues[int] = Dialogues(FakeEngine(), prompts, TASKS, max_in_flight=100)
    ours: Dialogues[int] = Dialogues(engine, prompts, TASKS, max_in_flight=100)
    for dialogues in (alone, ours):
        dialogues.start(0, chunks_of(prompts, "ours"))
    assert run_to_end(ours) == run_to_end(alone)
    assert ours.usage == alone.usage


def test_request_keys_differ_where_only_the_labels_do() -> None:
    first, second = (
        Request("1", [1, 2], TASKS["translations"]._sampling(Chunk("", array("i"))), labels)  # type: ignore[attr-defined]
        for labels in (((1,), (2,)), ((2,), (1,)))
    )
    assert first.key("m") != second.key("m")
