"""The page of the paper's table: numbers of the table and nothing else, and a point for every horizon."""

import json

import pytest
import torch
from safetensors.torch import load_file

from evaluate import make_paper_table
from evaluation.paper_table import HORIZONS, judged_horizons, paper_table, paper_text
from evaluation.tiny_columns import COLUMNS
from models.checkpoints.weight_files import save_weights
from models.errors import ConfigError
from models.worlds.tiny_prompts import PROMPTS
from models.worlds.tiny_world import HORIZON, sample_video
from models.worlds.world_config import SHIPPED_STUDENT
from reports.paper_report import write_paper_report
from reports.run_report import SHOWN
from tests.reports.self_contained import read_alone


def paper_page(folder):
    """Table and file of the page for real videos, and for the same ones that darken."""
    prompts, generator = list(PROMPTS[::20]), torch.Generator().manual_seed(0)
    frames = max(HORIZONS) * HORIZON
    real = torch.stack([sample_video(prompt, frames, generator) for prompt in prompts])
    videos = {"real": real, "darkens": real * (1 - 0.6 * torch.linspace(0, 1, frames)[:, None, None, None])}
    judged = {name: judged_horizons(own, prompts) for name, own in videos.items()}
    path, table = folder / "report.html", paper_table(judged)
    write_paper_report(path, table, judged, videos, {"checkpoint.real": "a<b>"})
    return table, path


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Table and text of the page."""
    table, path = paper_page(tmp_path_factory.mktemp("paper"))
    return table, path.read_text()


def test_a_column_at_a_horizon_is_the_mean_over_videos_of_all_frames_up_to_it_and_only_clear_orders_rank(page):
    table, _ = page
    for name in ("real", "darkens"):
        assert table["methods"][name].keys() == {str(horizon) for horizon in HORIZONS}
    rows = {name: table["methods"][name]["21"]["visual_stability"]["mean"] for name in ("real", "darkens")}
    assert rows["real"] == 100 and rows["darkens"] < 60
    assert table["rankings"]["21"]["visual_stability"] == ["real", "darkens"]
    assert json.loads(json.dumps(table, allow_nan=False)) == table
    assert len(paper_text(table).splitlines()) == 1 + 2 * len(HORIZONS)


def test_the_page_needs_nothing_outside_it_and_holds_every_number_of_the_table_in_order(page):
    table, text = page
    read = read_alone(text)
    cells = [
        table["methods"][name][str(horizon)][column]
        for horizon in HORIZONS
        for name in ("real", "darkens")
        for column in COLUMNS
    ]
    assert read.values == [cell[key] for cell in cells for key in ("mean", "low", "high")]
    best = [name for by_column in table["best"].values() for name in by_column.values() if name]
    assert text.count('class="best ') == len(best) > 0
    assert "a<b>" in " ".join(read.words)


def test_the_page_has_a_point_for_every_horizon_and_the_first_videos_of_each_method(page):
    table, text = page
    read = read_alone(text)
    script = json.loads(text.partition('id="data">')[2].partition("</script>")[0])
    assert script["values"].keys() == COLUMNS.keys()
    for column, views in script["values"].items():
        real, darkens = views[0]
        assert len(real) == len(darkens) == max(HORIZONS)
        for horizon in HORIZONS:
            mean = table["methods"]["darkens"][str(horizon)][column]["mean"]
            assert darkens[horizon - 1] == pytest.approx(mean, rel=1e-3)
    assert read.tags.count("canvas") == 2 * min(SHOWN, table["videos"])


def test_the_hub_s_folder_of_a_student_is_found_and_its_damage_is_refused_before_the_first_video(tmp_path):
    folder = tmp_path / "models--owner--name"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text("newest")
    file = folder / "snapshots/newest/model.safetensors"
    file.parent.mkdir(parents=True)
    save_weights(load_file(SHIPPED_STUDENT), file, {})
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(ConfigError) as error:
        make_paper_table({"shipped": str(SHIPPED_STUDENT), "theirs": str(folder)}, tmp_path / "out")
    assert error.value.key == "checkpoint" and str(file) in error.value.problem
