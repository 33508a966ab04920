"""Runs the real API process with a stand-in for the probe: DATA_DIR PORT."""

import sys
from pathlib import Path

from service.app import serve
from service.settings import Settings

FACTS = {
    "width": 64,
    "height": 48,
    "mpp": [0.5, 0.5],
    "objective": 20.0,
    "vendor": None,
    "levels": [{"width": 64, "height": 48, "downsample": 1.0}],
    "warnings": [],
}

serve(
    Settings(data_dir=Path(sys.argv[1]), port=int(sys.argv[2]), max_upload_bytes=2**30, disk_reserve_bytes=0),
    probe=lambda slide: FACTS,
)
