"""Several ``flwr`` commands in one process: each has its own answer, or is named."""

import re
from pathlib import Path

import pytest
from deployed import free_port

from runtime.superlink import SuperLink
from shared.errors import UserError


@pytest.fixture
def nobody(tmp_path: Path) -> SuperLink:
    """A SuperLink's address where none listens: Flower refuses each command, in JSON."""
    return SuperLink(tmp_path, f"127.0.0.1:{free_port()}")


def test_every_command_is_answered_in_turn_also_after_a_refusal(nobody: SuperLink) -> None:
    answers = nobody.ask_each([("ls",), ("supernode", "list"), ("stop", "1")])
    assert [answer["success"] for answer in answers] == [False, False, False]
    assert all("127.0.0.1" in str(answer) or "connect" in str(answer).lower() for answer in answers), answers
    assert nobody.ask_each([]) == []


@pytest.mark.parametrize(("make", "reason"), [("write_text", "[Pp]ublic key"), ("mkdir", "Is a directory")])
def test_a_command_that_gives_no_answer_is_named_with_what_it_said(
    make: str, reason: str, nobody: SuperLink, tmp_path: Path
) -> None:
    broken = tmp_path / "node-1.pub"
    getattr(broken, make)(*["no key at all"] if make == "write_text" else [])
    commands = [("ls",), ("supernode", "register", str(broken), "--name", "node-1"), ("ls",)]
    expected = rf"flwr supernode register {re.escape(str(broken))} --name node-1 failed: .*{reason}"
    with pytest.raises(UserError, match=re.compile(expected, re.DOTALL)) as refusal:
        nobody.ask_each(commands)
    assert '"success"' not in str(refusal.value), "the answers of the others are no part of it"
    assert "Traceback" not in str(refusal.value)
