"""What a model wrote is shown as text: it steers neither the terminal nor the markup."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from sparc3_lightning.demo.completions import print_completions, printable
from sparc3_lightning.files import write_json
from tests.unit.evaluation.fake_run import evaluation


def test_control_characters_are_written_out() -> None:
    assert printable("a\x1b[31mred\x07\n\nb\u202e") == "a\\x1b[31mred\\x07\\n\\nb\\u202e"
    assert printable(" You fool.") == "You fool."
