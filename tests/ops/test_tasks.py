"""The four kinds of task: what each asks, and how it reads the answers. Driven by hand, without an engine."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from docmill.engine.types import Completion
from docmill.ops.chunking import Chunk
from docmill.ops.prompts import Prompts
from docmill.ops.tasks import AnyTask, Classify, Generate, Summarize, Translate
from docmill.ops.tasks.classify import softmax
from docmill.ops.tasks.task import Ask, Task, TaskError


def chunks_of(prompts: Prompts, *texts: str, separators: list[str] | None = None) -> list[Chunk]:
    separators = separators or [" "] * (len(texts) - 1) + [""]
    ids = prompts.tokenizer.encode_data(texts)
    return [
        Chunk(*parts) for parts in zip(texts, (array("i", each) for each in ids), separators, strict=True)
    ]


def converse(
    task: Task, chunks: list[Chunk], prompts: Prompts, answer: Callable[[Ask], str | tuple[float, ...]]
) -> tuple[dict[str, Any], list[list[Ask]]]:
    """The task's columns, and what it asked in each round."""
    dialogue, rounds = task.ask(chunks, prompts), []
    asks = next(dialogue)
    while True:
        rounds.append(asks)
        completions = []
        for ask in asks:
            given = answer(ask)
            if isinstance(given, str):
                ids = tuple(prompts.tokenizer.encode_data([given])[0])
                completions.append(Completion("id", ids[: ask.sampling.max_tokens], "stop"))
            else:
                completions.append(Completion("id", (), "stop", label_logprobs=given))
        try:
            asks = dialogue.send(completions)
        except StopIteration as end:
            return end.value, rounds


class TestTranslate:
    def test_chunks_are_joined_in_order_by_what_stood_between_them(self, prompts: Prompts) -> None:
        chunks = chunks_of(prompts, "eins", "zwei", "drei", "vier", "fünf",
                           separators=[" ", "\n", "\n\n\n", "", ""])  # fmt: skip
        columns, (asks,) = converse(
            Translate(kind="translate"), chunks, prompts, lambda ask: f" <{ask.text}> "
        )
        assert columns == {"translation": "<eins> <zwei>\n<drei>\n\n<vier> <fünf>"}
        assert [ask.text for ask in asks] == ["eins", "zwei", "drei", "vier", "fünf"]

    def test_the_language_stands_in_the_instruction(self, prompts: Prompts) -> None:
        task = Translate(kind="translate", target_language="Thai")
        _, ((ask,),) = converse(task, chunks_of(prompts, "eins"), prompts, lambda ask: "")
        assert "into Thai" in ask.instruction

    def test_room_for_the_answer_grows_with_the_chunk(self, prompts: Prompts) -> None:
        short, long = chunks_of(prompts, "eins", "eins zwei drei " * 100)
        _, (asks,) = converse(Translate(kind="translate"), [short, long], prompts, lambda ask: "")
        assert asks[0].sampling.max_tokens == 64 + 2 * short.num_tokens
        assert asks[1].sampling.max_tokens == 64 + 2 * long.num_tokens

    def test_a_fixed_bound_counts_where_it_is_set(self, prompts: Prompts) -> None:
        task = Translate(kind="translate", max_output_tokens=7)
        _, ((ask,),) = converse(task, chunks_of(prompts, "eins"), prompts, lambda ask: "")
        assert ask.sampling.max_tokens == 7


class TestClassify:
    TASK = Classify(kind="classify", labels=["a", "b", "c"])

    def test_the_score_is_the_softmax_of_the_labels(self, prompts: Prompts) -> None:
        logprobs = (math.log(0.2), math.log(0.1), math.log(0.1))
        columns, ((ask,),) = converse(self.TASK, chunks_of(prompts, "text"), prompts, lambda ask: logprobs)
        assert columns["label"] == "a"
        assert columns["score"] == pytest.approx(0.5)
        assert [entry["label"] for entry in columns["label_scores"]] == ["a", "b", "c"]
        assert [entry["score"] for entry in columns["label_scores"]] == pytest.approx([0.5, 0.25, 0.25])
        assert ask.labels == tuple(map(tuple, prompts.tokenizer.encode_data(["a", "b", "c"])))
        assert "a, b, c" in ask.instruction

    def test_chunks_count_by_their_tokens(self, prompts: Prompts) -> None:
        long, short = chunks_of(prompts, "viele Worte " * 30, "eins")
        scores = {
            long.text: (math.log(0.6), math.log(0.4), -math.inf),
            short.text: (-math.inf, 0.0, -math.inf),
        }
        columns, _ = converse(self.TASK, [long, short], prompts, lambda ask: scores[ask.text])
        share = long.num_tokens / (long.num_tokens + short.num_tokens)
        expected = [0.6 * share, 0.4 * share + 1 - share, 0.0]
        assert [entry["score"] for entry in columns["label_scores"]] == pytest.approx(expected)
        assert columns["label"] == ("a" if expected[0] > expected[1] else "b")

    def test_of_equal_labels_the_first_is_taken(self, prompts: Prompts) -> None:
        columns, _ = converse(self.TASK, chunks_of(prompts, "text"), prompts, lambda ask: (-2.0, -1.0, -1.0))
        assert columns["label"] == "b"

    @pytest.mark.parametrize(
        ("logprobs", "expected"),
        [
            ((0.0, -math.inf), [1.0, 0.0]),
            ((-math.inf, -math.inf), [0.5, 0.5]),
            ((-5000.0, -5000.0), [0.5, 0.5]),  # exp of them is 0
            ((-1e308, 0.0), [0.0, 1.0]),
        ],
    )
    def test_scores_add_up_to_one_whatever_the_model_says(
        self, logprobs: tuple[float, ...], expected: list[float]
    ) -> None:
        assert softmax(logprobs) == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("labels", "said"),
        [
            (["a", "b", "a", "c", "b"], "'a', 'b' are listed more than once"),
            (["a", " b"], "' b'"),
            (["a", ""], "empty"),
            (["a"], "at least 2"),
        ],
    )
    def test_labels_that_cannot_be_told_apart_are_refused(self, labels: list[str], said: str) -> None:
        with pytest.raises(ValidationError, match=said):
            Classify(kind="classify", labels=labels)


class TestSummarize:
    def test_one_chunk_is_one_question(self, prompts: Prompts) -> None:
        task = Summarize(kind="summarize", language="French")
        columns, rounds = converse(task, chunks_of(prompts, "text"), prompts, lambda ask: " Un résumé. ")
        assert columns == {"summary": "Un résumé."}
        assert len(rounds) == 1
        assert "in French" in rounds[0][0].instruction

    @pytest.mark.parametrize("num_chunks", [2, 3, 40, 300])
    def test_many_chunks_are_reduced_in_order_until_one_is_left(
        self, prompts: Prompts, num_chunks: int
    ) -> None:
        """Each answer says which parts it covers, "3-7"; a summary that skips or swaps one would show."""
        texts = [f"part {number}" for number in range(num_chunks)]

        def cover(ask: Ask) -> str:
            if ask.text.startswith("part"):
                return ask.text.removeprefix("part ")
            lines = [line.split("-") for line in ask.text.split("\n")]
            for (*_, end), (start, *_) in pairwise(lines):
                assert int(start) == int(end) + 1, f"parts out of order: {ask.text!r}"
            return f"{lines[0][0]}-{lines[-1][-1]}"

        columns, rounds = converse(Summarize(kind="summarize"), chunks_of(prompts, *texts), prompts, cover)
        assert columns == {"summary": f"0-{num_chunks - 1}"}
        assert len(rounds) <= 1 + math.ceil(math.log2(num_chunks))
        assert all(len(later) < len(earlier) for earlier, later in pairwise(rounds))

    def test_it_ends_when_every_summary_is_as_long_as_can_be(self, prompts: Prompts) -> None:
        task = Summarize(kind="summarize", max_output_tokens=50)
        chunks = chunks_of(prompts, *(f"part {number}" for number in range(33)))
        columns, rounds = converse(task, chunks, prompts, lambda ask: "viele lange Worte " * 50)
        assert columns["summary"].startswith("viele lange")
        assert [len(asks) for asks in rounds] == [33, 17, 9, 5, 3, 2, 1]

    def test_it_ends_when_every_summary_is_empty(self, prompts: Prompts) -> None:
        chunks = chunks_of(prompts, *(f"part {number}" for number in range(9)))
        columns, _ = converse(Summarize(kind="summarize"), chunks, prompts, lambda ask: "")
        assert columns == {"summary": ""}


class TestGenerate:
    def test_sampling_is_what_the_job_says(self, prompts: Prompts) -> None:
        task = Generate(kind="generate", instruction="Go.", temperature=0.7, top_p=0.9, top_k=5, seed=3,
                        stop=("END",), max_output_tokens=9)  # fmt: skip
        columns, ((ask,),) = converse(task, chunks_of(prompts, "text"), prompts, lambda ask: " yes ENDLESS")
        assert columns == {"answer": "yes"}
        sampling = ask.sampling
        assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed) == (0.7, 0.9, 5, 3)
        assert (sampling.stop, sampling.max_tokens, sampling.json_schema) == (("END",), 9, None)

    def test_a_document_of_several_chunks_fails_unless_the_job_says_otherwise(self, prompts: Prompts) -> None:
        task = Generate(kind="generate", instruction="Go.")
        with pytest.raises(TaskError, match="2 chunks") as caught:
            next(task.ask(chunks_of(prompts, "a", "b"), prompts))
        assert caught.value.reason == "document_too_long"

    def test_it_may_ask_about_the_first_chunk_alone(self, prompts: Prompts) -> None:
        task = Generate(kind="generate", instruction="Go.", long_documents="first")
        columns, (asks,) = converse(task, chunks_of(prompts, "a", "b"), prompts, lambda ask: ask.text)
        assert (columns, len(asks)) == ({"answer": "a"}, 1)

    def test_it_may_ask_about_each_chunk(self, prompts: Prompts) -> None:
        task = Generate(kind="generate", instruction="Go.", long_documents="each")
        columns, _ = converse(task, chunks_of(prompts, "a", "b", "c"), prompts, lambda ask: ask.text)
        assert columns == {"answer": "a\nb\nc"}

    def test_json_reaches_the_engine_as_a_schema_and_comes_back_as_text(self, prompts: Prompts) -> None:
        task = Generate(kind="generate", instruction="Go.", json_schema={"type": "object"})
        columns, ((ask,),) = converse(task, chunks_of(prompts, "text"), prompts, lambda ask: '{"a": [1]}')
        assert columns == {"answer": '{"a": [1]}'}
        assert ask.sampling.json_schema == '{"type": "object"}'

    def test_an_answer_that_is_no_json_is_an_error(self, prompts: Prompts) -> None:
        task = Generate(kind="generate", instruction="Go.", json_schema={"type": "object"})
        with pytest.raises(TaskError, match="answer_not_json"):
            converse(task, chunks_of(prompts, "text"), prompts, lambda ask: '{"a": [1')

    def test_json_cannot_be_joined_from_chunks(self) -> None:
        with pytest.raises(ValidationError, match="no JSON"):
            Generate(kind="generate", instruction="Go.", json_schema={}, long_documents="each")


@pytest.mark.parametrize(
    "task",
    [
        Translate(kind="translate"),
        Translate(kind="translate", max_output_tokens=100),
        Classify(kind="classify", labels=["short", "a label of several words"]),
        Summarize(kind="summarize"),
        Generate(kind="generate", instruction="Go."),
    ],
    ids=lambda task: f"{task.kind} {getattr(task, 'max_output_tokens', None)}",
)
@pytest.mark.parametrize("max_model_len", [400, 2048, 40_960])
def test_the_longest_chunk_fits_with_its_answer_whatever_its_fence(
    prompts: Prompts, task: Task, max_model_len: int
) -> None:
    num_tokens = task.max_chunk_tokens(prompts, max_model_len)
    assert num_tokens > 16
    text = "</document>"
    chunk = Chunk(text, array("i", range(100, 100 + num_tokens)))
    (ask,) = next(task.ask([chunk], prompts))
    prompt = prompts.render(ask.text, ask.token_ids, ask.instruction)
    longest_answer = (
        max((len(label) for label in ask.labels), default=0) if ask.labels else ask.sampling.max_tokens
    )
    assert len(prompt) + longest_answer <= max_model_len


def test_a_job_names_the_kind_of_task(prompts: Prompts) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(AnyTask)
    assert isinstance(adapter.validate_python({"kind": "summarize"}), Summarize)
    with pytest.raises(ValidationError, match="translate"):
        adapter.validate_python({"kind": "paint"})
    with pytest.raises(ValidationError, match="langauge"):
        adapter.validate_python({"kind": "summarize", "langauge": "German"})
