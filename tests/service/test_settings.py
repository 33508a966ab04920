"""Settings are passed to other processes in the environment."""

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
def test_settings_are_read_back_from_their_environment(given, tmp_path, monkeypatch) -> None:
    settings = Settings(data_dir=tmp_path, **given)
    for name, value in settings.as_environment().items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings


def test_empty_variable_means_the_default(monkeypatch) -> None:
    monkeypatch.setenv("SLIDELIFT_SCHEDULER", "")
    monkeypatch.setenv("SLIDELIFT_PORT", "")
    assert (Settings().scheduler, Settings().port) == (None, 8000)
