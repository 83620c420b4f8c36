"""The report that is timed is a demo's own, of as many videos as the folder holds."""

import json

from benchmarks import report_speed
from reports import demo_report


def test_the_timed_report_is_of_all_videos_of_every_stage(tmp_path, monkeypatch):
    prompts = demo_report.demo_prompts()[:2]
    for module in (report_speed, demo_report):
        monkeypatch.setattr(module, "demo_prompts", lambda: prompts)
    videos, frames = report_speed.write_videos(tmp_path)
    assert (videos, frames) == (3 * 2, 16 * 12)
    assert report_speed.report_s(tmp_path) > 0
    methods = json.loads((tmp_path / "summary.json").read_text())["methods"]
    assert sum(method["videos"] for method in methods.values()) == videos
    assert (tmp_path / "report.html").stat().st_size > 100_000
