"""What one process is told, the next one hears."""

import pytest

from slidelift.service.settings import Settings


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"upload_roots": ("/scanner", "/a b"), "upload_https": True},
        {"scheduler": "tls://scheduler:8786", "device": "cpu", "port": 0, "lease_seconds": 2.5},
    ],
)
def test_another_process_reads_the_settings_that_this_one_was_given(given, tmp_path, monkeypatch) -> None:
    settings = Settings(data_dir=tmp_path, **given)
    for name, value in settings.as_environment().items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings


def test_a_variable_that_is_empty_leaves_the_default(monkeypatch) -> None:
    monkeypatch.setenv("SLIDELIFT_SCHEDULER", "")
    monkeypatch.setenv("SLIDELIFT_PORT", "")
    assert (Settings().scheduler, Settings().port) == (None, 8000)
