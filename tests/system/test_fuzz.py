"""Seeded nonsense for every command line and file reader: the right value, or one line of ours; nothing is written.

At least 3,000 inputs: 8 command lines and 23 readers, 100 of each. What is read of a damaged file is what was read of
the whole one, or what another parser finds in it, or a note tells of it.
"""

import csv
import io
import json
import random
import re
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterable
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pyarrow.parquet
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

import convert
import demo
import evaluate
import generate
import plan
import settings
from actors.generation.start_pictures import Fit, read_picture
from actors.generation.video_record import recorded_keys, write_record
from actors.prompt_config import PromptConfig
from actors.prompt_extension import extend_prompts
from actors.prompts import prompt_texts
from cluster.config.plan_config import PlanConfig, PlannedRun
from cluster.config.run_config import Config
from cluster.config.scan_config import Scan
from cluster.planning.costs import find_costs
from cluster.planning.run_shape import run_shape_of
from cluster.runs.checkpoints import checkpoint
from cluster.runs.checkpoints.checkpoint import Snapshot
from cluster.runs.run_folder import RunFolder
from evaluation.evaluation_config import EvaluationConfig
from evaluation.judging.agreement import read_ratings
from evaluation.judging.rubric import load_rubric
from evaluation.judging.transcripts import Transcripts
from evaluation.video_files import read_videos
from learner.parallel.shard_files import OwnShards
from models.checkpoints.formats import open_checkpoint
from models.checkpoints.lora_config import UNSTATED
from models.checkpoints.lora_files import read_adapters
from models.checkpoints.weight_files import check_weights, load_weights, save_weights, verify_weights
from models.errors import ConfigError, StopsRun
from models.keys import resumable_keys
from models.network_config import StudentConfig
from models.wan.network import Wan
from settings import scan_arguments
from settings.key_table import Key
from tests.evaluation.test_reward_trial import film

pytestmark = pytest.mark.proof
INPUTS = 100
"""Of each command and reader."""
SHIPPED = settings.ROOT / "assets/tiny/student_uniform.safetensors"
TrialOptions = import_module("rewards.try").TrialOptions

# -- command lines ----------------------------------------------------------------------------------------------------

COMMANDS: dict[str, tuple[Callable, list[type], list[str]]] = {
    "train": (settings.load, [Config], []),
    "demo": (demo.read_demo, [Config], []),
    "tune": (scan_arguments.plan, [Scan], []),
    "plan": (plan.read_plan, [PlannedRun], []),
    "generate": (generate.read_generation, [generate.GenerationConfig], ["prompt=x", "out=x.mp4"]),
    "convert": (
        lambda given: settings.read_keys(given, convert.ConvertOptions),
        [convert.ConvertOptions],
        ["source=x", "out=y"],
    ),
    "evaluate": (evaluate.read_work, [EvaluationConfig, generate.GenerationConfig], ["videos=x"]),
    "rewards.try": (lambda given: settings.read_keys(given, TrialOptions), [TrialOptions], ["clips=true"]),
}
"""Reader, its keys, and the arguments without which it takes none."""
WORDS = (
    "1", "0", "-1", "3", "1.5", "1e-4", "1e300", "-1e400", "inf", "-inf", ".nan", "nan", "1_000", "0x10", "1e3", "null",
    "NULL", "true", "yes", "'5'", '"a b"', "", " ", "[]", "[1,2]", "[1,[2]]", "[null]", "{}", "{a: 1}", "{a: [b}",
    "[1,", "a=b", "a,b", "run (1)", "x\ny", "\t", "#", "%", "@", "~", "~nobody/x", "${seed}", "${oc.env:HOME}", "$HOME",
    "{}{}", "it's", "'", '"', "\\", "\\'", "\xe9", "\u540d", "\udcff", "\u202e", "a" * 3000, "-" * 30,
    "9" * 23, "2147483648", "9223372036854775807", "uniform", "beta(1,2)", "beta(1", "weighted(1,2,3)", "priority(2)",
    "os.system", "tiny", "wan_14b", "float32", "ray", "inline", "../x", "/", "/dev/null", "http://[", "http://a:b@c",
    "http://x:99999",
)  # fmt: skip


def arguments(command: str, draw: random.Random) -> list[str]:
    """Some keys, most of them of the command, some misspelt, with values that may or may not suit them."""
    _, schemas, base = COMMANDS[command]
    keys = [key for schema in schemas for key in settings.keys_of(schema)] + ["preset", "window", "cluster"]
    given = []
    for _ in range(draw.randint(1, 3)):
        name = draw.choice(keys)
        if draw.random() < 0.15:
            place = draw.randrange(len(name))
            name = name[:place] + draw.choice(["", "_", "\xe9", ".", "-", "="]) + name[place + 1 :]
        value = draw.choice(WORDS) if draw.random() < 0.8 else "".join(draw.choices("0a'\"[]{}(),:=.- ~$\\", k=6))
        given.append(name + value if draw.random() < 0.05 else f"{name}={value}")
    return [*(one for one in base if one.partition("=")[0] not in {g.partition("=")[0] for g in given}), *given]


def value_at(options: Any, name: str) -> Any:
    for part in name.split("."):
        options = getattr(options, part)
    return options


def as_typed(key: Key, text: str, value: Any) -> bool:
    """Whether a value that was taken is what was typed, for the kinds that have one reading."""
    bare = text[1:-1] if len(text) > 1 and text[0] in "'\"" and text[-1] == text[0] else text
    if value is None or (key.kind is not str and "${" in text):  # as Hydra, a number may refer to another key
        return value is not None or text.lower() == "null"
    if key.kind is str:
        return value in (bare, text) or Path(value) == Path.cwd() / Path(bare).expanduser()
    if key.kind is int:
        return value == int(bare)
    return value == float(bare) if key.kind is float else True


def one_line(error: Exception) -> bool:
    """Whether a message is one line of printable characters."""
    return str(error).isprintable() and bool(str(error))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_line_is_read_as_typed_or_refused_in_one_line(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    read, schemas, _ = COMMANDS[command]
    keys = {name: key for schema in schemas for name, key in settings.keys_of(schema).items()}
    taken, draw = 0, random.Random(command)
    for _ in range(INPUTS):
        given = arguments(command, draw)
        try:
            options = read(given)
        except ConfigError as error:
            assert one_line(error), given
            continue
        taken += 1
        if command in ("tune", "evaluate"):  # their result is more than the keys
            continue
        for name, _, text in (one.partition("=") for one in given):
            if name in keys and (command, name) != ("plan", "prompts"):
                assert as_typed(keys[name], text, value_at(options, name)), given
    assert taken >= INPUTS / 50 and not list(tmp_path.iterdir())


# -- files ------------------------------------------------------------------------------------------------------------


def written_run(folder: Path) -> Path:
    RunFolder(folder / "run").claim(Config(run_dir=str(folder / "run")))
    return folder / "run/config.yaml"


def written_checkpoint(folder: Path) -> Path:
    snapshot = Snapshot.of(3, {"student": OwnShards.of({"w": torch.arange(6.0)})}, {"seed": 1})
    return checkpoint.write(folder / "checkpoints", snapshot, 2)


def written_adapter(folder: Path) -> Path:
    down, up = "transformer.blocks.0.attn1.to_q.lora_A.weight", "transformer.blocks.0.attn1.to_q.lora_B.weight"
    save_file({down: torch.ones(2, 96), up: torch.ones(96, 2)}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4}))
    return folder / "adapter_model.safetensors"


def written_costs(folder: Path) -> Path:
    shape = {"model": "tiny", "latent": [3, 12, 12], "steps": 4, "attention_frames": 12}
    line = {
        "name": "rollout_fps",
        "block_ms": 700.0,
        "device": "x",
        "config": shape | {"dtype": "float32", "compile": False},
    }
    (folder / "costs.jsonl").write_text(f"{json.dumps(line)}\n" * 2)
    return folder / "costs.jsonl"


def write(folder: Path, name: str, save: Callable[[Path], Any]) -> Path:
    save(folder / name)
    return folder / name


def outline() -> Wan:
    with torch.device("meta"):
        return Wan(StudentConfig().wan)


def read_student(path: Path) -> dict[str, torch.Tensor]:
    check_weights(path, "checkpoint", outline())
    verify_weights(path, "checkpoint")
    student = Wan(StudentConfig().wan)
    load_weights(student, path, "checkpoint")
    return student.state_dict()


def read_claimed(path: Path) -> dict[str, Any]:
    """The keys of a folder that was taken for the same run, but for those that a run may change."""
    config = Config(run_dir=str(path.parent))
    RunFolder(path.parent).claim(config)
    stored = yaml.safe_load(path.read_text())
    kept = {}
    for name in {*settings.keys_of(Config)} - {*resumable_keys(config)}:
        value = stored
        for part in name.split("."):
            value = value.get(part, value_at(config, name)) if isinstance(value, dict) else value
        kept[name] = value
    return kept


def read_lora(path: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    return {name: (adapter.down, adapter.up) for name, adapter in read_adapters(path, "lora").items()}


def lora_in(stored: dict[str, torch.Tensor]) -> dict[str, tuple[torch.Tensor, ...]]:
    layers = sorted({name.removeprefix("transformer.").partition(".lora_")[0] for name in stored})
    side = {name.removeprefix("transformer."): tensor for name, tensor in stored.items()}
    return {layer: tuple(side[f"{layer}.lora_{letter}.weight"] for letter in "AB") for layer in layers}


def read_scales(path: Path) -> list[float]:
    adapters = read_adapters(path.with_name("adapter_model.safetensors"), "lora").values()
    for adapter in adapters:
        if UNSTATED in adapter.stated:  # as the commands print of every LoRA
            print(f"note: {adapter.stated}", file=sys.stderr)
    return [adapter.scale for adapter in adapters]


def scales_in(path: Path) -> list[float]:
    fields = json.loads(decoded(path))
    return [fields["lora_alpha"] / (2**0.5 if fields.get("use_rslora") else 2)]


def decoded(path: Path) -> str:
    content = path.read_bytes()
    return content.decode("utf-16" if content[:2] == b"\xff\xfe" else "utf-8-sig")


def words(texts: Iterable[str]) -> list[str]:
    return [unicodedata.normalize("NFC", " ".join(text.split())) for text in texts if text.strip()]


def is_data(text: str) -> bool:
    """Whether a text begins as JSON or markup, or YAML finds a prompt in it: then its lines are no prompts."""
    if re.match(r"""\s*(<(!|\?|[a-z]+>)|[\[{]\s*["'{\]}\n])""", text, re.IGNORECASE):
        return True
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return False
    return any(isinstance(one, dict) and "prompt" in one for one in (found if isinstance(found, list) else [found]))


def lines_in(path: Path) -> list[str]:
    lines = re.split(r"[\r\n]", decoded(path))
    if decoded(path).strip() == "[]":
        return []
    assert not is_data(decoded(path)) and not any(
        re.fullmatch(r"\s*[!-/:-@\[-`{-~][!-/:-@\[-`{-~\s]*", one) for one in lines
    )
    return words(lines)


def whole_text_in(path: Path) -> list[str]:
    assert not is_data(decoded(path))
    return [" ".join(decoded(path).split())]


def json_prompts_in(path: Path) -> list[str]:
    try:
        whole = json.loads(decoded(path))
        entries = whole if isinstance(whole, list) else [whole]
    except ValueError:
        entries = json.loads("[" + re.sub(r"\}\s*\{", "},{", decoded(path)) + "]")
    return words(entry if isinstance(entry, str) else entry["prompt"] for entry in entries)


def table_in(path: Path) -> list[dict[str, str]]:
    delimiter = "\t" if path.suffix == ".tsv" else ","
    header, *rows = (row for row in csv.reader(io.StringIO(decoded(path), newline=""), delimiter=delimiter) if row)
    assert all(len(row) <= len(header) for row in rows)
    return [dict(zip((cell.strip().casefold() for cell in header), row, strict=False)) for row in rows]


def prompts_in(path: Path) -> list[str]:
    return words(row["prompt"] for row in table_in(path))


def ratings_in(path: Path) -> dict[str, float]:
    scores: dict[str, list[float]] = {}
    for row in table_in(path):
        scores.setdefault(row["name"].strip(), []).append(float(row["score"]))
    return {name: sum(own) / len(own) for name, own in scores.items()}


def written_record(folder: Path) -> Path:
    config = generate.GenerationConfig(prompt="a cat", out="x.mp4")
    write_record(folder / "x.mp4", config, folder / "w", "0123", {})
    return folder / "x.json"


def written_index(folder: Path) -> Path:
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for number, shard in enumerate(shards):
        save_file({f"blocks.{number}.attn1.to_q.weight": torch.full((2, 2), float(number))}, folder / shard)
    placed = {f"blocks.{number}.attn1.to_q.weight": shard for number, shard in enumerate(shards)}
    text = json.dumps({"metadata": {"total_size": 32}, "weight_map": placed})
    return write(folder, "model.safetensors.index.json", lambda path: path.write_text(text))


def shards_in(path: Path) -> dict[str, torch.Tensor]:
    placed = json.loads(decoded(path))["weight_map"]
    return {name: load_file(path.with_name(shard))[name] for name, shard in placed.items()}


def written_lora(folder: Path) -> Path:
    tensors = load_file(written_adapter(folder))
    (folder / "adapter_model.safetensors").unlink()
    return write(folder, "adapter_model.bin", lambda path: torch.save(tensors, path))


def written_prompt(folder: Path) -> Path:
    film(folder / "f.mp4", torch.rand(2, 3, 32, 32))
    return write(folder, "f.txt", lambda path: path.write_text("\n".join(PROMPTS)))


def read_costs(path: Path) -> None:
    find_costs(PlanConfig(costs=str(path)), run_shape_of(PlannedRun(cluster=Config().cluster)))


def read_answers(path: Path) -> None:
    config = PromptConfig(url="http://127.0.0.1:9/v1", retries=0, timeout_s=1.0)
    extend_prompts([], config, path)


def read_image(path: Path) -> numpy.ndarray:
    pixels, notes = read_picture(path, "image", Fit(16, 16, "cut", (255, 255, 255)))
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    return pixels


def read_transcripts(path: Path) -> None:
    copy = path.with_name("copy")  # it is held open for writing, and an unfinished line is cut off
    shutil.copy(path, copy)
    try:
        with Transcripts(copy):
            pass
    finally:
        copy.unlink()


PROMPTS = ["a red disc drifts slowly over a cool wall", "a blue square jumps", "\xe9t\xe9 \u590f"]
FILES: dict[str, tuple[Callable[[Path], Path], Callable[[Path], Any]]] = {
    "student.safetensors": (
        lambda folder: write(folder, "s.safetensors", lambda path: save_weights(load_file(SHIPPED), path, {"seed": 0})),
        read_student,
    ),
    "student.pt": (
        lambda folder: write(folder, "s.pt", lambda path: torch.save({"generator": load_file(SHIPPED)}, path)),
        read_student,
    ),
    "model.safetensors.index.json": (
        written_index,
        lambda path: dict(open_checkpoint(path, "checkpoint").tensors()),
    ),
    "adapter": (written_adapter, read_lora),
    "adapter.bin": (written_lora, read_lora),
    "adapter_config.json": (lambda folder: written_adapter(folder).with_name("adapter_config.json"), read_scales),
    "record": (written_record, lambda path: recorded_keys(str(path), ())),
    "prompts.txt": (
        lambda folder: write(folder, "p.txt", lambda path: path.write_text("\n".join(PROMPTS))),
        lambda path: list(prompt_texts(path)),
    ),
    "prompts.jsonl": (
        lambda folder: write(
            folder, "p.jsonl",
            lambda path: path.write_text("".join(json.dumps({"prompt": p, "n": 1}) + "\n" for p in PROMPTS)),
        ),
        lambda path: list(prompt_texts(path)),
    ),
    "prompts.parquet": (
        lambda folder: write(
            folder, "p.parquet",
            lambda path: pyarrow.parquet.write_table(pyarrow.table({"prompt": PROMPTS}), path),
        ),
        lambda path: list(prompt_texts(path)),
    ),
    "prompts.csv": (
        lambda folder: write(folder, "p.csv", lambda path: path.write_text("id,prompt\n1,a red disc\n")),
        lambda path: list(prompt_texts(path)),
    ),
    "prompts.tsv": (
        lambda folder: write(folder, "p.tsv", lambda path: path.write_text("id\tprompt\n1\ta red disc\n")),
        lambda path: list(prompt_texts(path)),
    ),
    "table.txt": (
        lambda folder: write(folder, "q.txt", lambda path: path.write_text("id,prompt\n1,a red disc\n2,a cat\n")),
        lambda path: list(prompt_texts(path)),
    ),
    "prompts.json": (
        lambda folder: write(folder, "p.json", lambda path: path.write_text(json.dumps(PROMPTS))),
        lambda path: list(prompt_texts(path)),
    ),
    "image.png": (
        lambda folder: write(
            folder, "i.png",
            lambda path: Image.fromarray(numpy.arange(1200, dtype=numpy.uint8).reshape(20, 20, 3)).save(path),
        ),
        read_image,
    ),
    "film.mp4": (
        lambda folder: write(folder, "f.mp4", lambda path: film(path, torch.rand(8, 3, 32, 32))),
        lambda path: [video.frames.shape for video in read_videos(path)],  # H.264 has no checksums: any pixels
    ),
    "film.txt": (
        written_prompt,
        lambda path: [video.prompt for video in read_videos(path.with_suffix(".mp4"))],
    ),
    "config.yaml": (
        written_run, read_claimed,
    ),
    "checkpoint": (
        lambda folder: written_checkpoint(folder) / "manifest.json",
        lambda path: checkpoint.read(checkpoint.newest_valid(path.parent.parent)[0])[0]["student"].read(),
    ),
    "costs.jsonl": (written_costs, read_costs),
    "ratings.csv": (
        lambda folder: write(folder, "r.csv", lambda path: path.write_text("name,score\na,3\nb,4.5\n")),
        lambda path: read_ratings(str(path)),
    ),
    "rubric.txt": (
        lambda folder: write(
            folder, "r.txt", lambda path: path.write_text("id: a\nversion: 1\nanswer: score\n\nGive a score.\n")
        ),
        lambda path: load_rubric(str(path), "score", "judge.rubric").text,
    ),
    "answers.jsonl": (
        lambda folder: write(
            folder, "a.jsonl", lambda path: path.write_text('{"key": "k", "prompt": "p", "extended": "e"}\n' * 2)
        ),
        read_answers,
    ),
    "transcripts.jsonl": (
        lambda folder: write(
            folder, "t.jsonl",
            lambda path: path.write_text(
                json.dumps({"key": "k", "tries": 1, "dollars": 0.5, "raw": "5", "value": 5, "missing": None}) + "\n"
            ),
        ),
        read_transcripts,
    ),
}  # fmt: skip
"""A valid file by what it is, and its reader."""
IN_FILE: dict[str, Callable[[Path], Any]] = {
    "student.pt": lambda path: torch.load(path, weights_only=True)["generator"],
    "model.safetensors.index.json": shards_in,
    "adapter": lambda path: lora_in(load_file(path)),
    "adapter.bin": lambda path: lora_in(torch.load(path, weights_only=True)),
    "adapter_config.json": scales_in,
    "record": lambda path: json.loads(decoded(path))["keys"],
    "prompts.txt": lines_in,
    "film.txt": whole_text_in,
    "table.txt": lines_in,  # as a table it is noted
    "prompts.jsonl": json_prompts_in,
    "prompts.json": json_prompts_in,
    "prompts.csv": prompts_in,
    "prompts.tsv": prompts_in,
    "prompts.parquet": lambda path: words(pyarrow.parquet.read_table(path)["prompt"].to_pylist()),
    "ratings.csv": ratings_in,
    "rubric.txt": lambda path: re.split(r"\r?\n\r?\n", path.read_bytes().decode(), maxsplit=1)[1].strip(),
}
"""Other parsers of the files whose damage can be another valid content; the other readers find damage themselves."""
HEADS = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n", b"<!DOCTYPE html><html>404</html>",
    b"\xff\xfea\x00b\x00", b"\xef\xbb\xbf", b"\x00" * 64, b"PK\x03\x04", b"\x80\x02}", b"{}", b"[", b"null\n",
    b"- 2020-01-01\n",
    b'{\n "prompt": "a cat"\n}\n{\n "prompt": "a dog"\n}\n', b'[\n "a cat",\n "a dog",\n', b"<!-- saved -->\n<html>",
    b"<Error><Code>AccessDenied</Code></Error>", b"Entry not found", b"| prompt |\n|---|\n| a cat |\n",
    b"- prompt: a cat\n",
    b"GIF89a", b"\x89PNG\r\n\x1a\n", b"a: !!python/object:os.system\n", b"\n" * 9,
)  # fmt: skip


WORDS_IN_FILES = (
    b"-1", b"1e999", b"null", b"[]", b"{}", b'"', b",", b":", b"\n", b"9" * 400, b"9" * 5000, b"[" * 9999, b'"false"',
)  # fmt: skip


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Cut, flip, repeat, or replace some bytes of a file, or give it the beginning of another kind."""
    changed = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        place = draw.randrange(len(changed) + 1) if draw.random() < 0.5 else draw.randrange(min(len(changed), 200) + 1)
        what = draw.randrange(6)
        if what == 0:
            del changed[place:]
        elif what == 1:
            changed[place : place + 1] = bytes([draw.randrange(256)])
        elif what == 2:
            changed[place:place] = draw.randbytes(draw.randint(1, 9))
        elif what == 3:
            changed = bytearray(draw.choice(HEADS)) + (changed if draw.random() < 0.5 else b"")
        elif what == 4:
            changed[place : place + 1] = draw.choice(WORDS_IN_FILES)
        else:
            changed += changed[place : place + 50]
    return bytes(changed)


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): sha256(path.read_bytes()).hexdigest() for path in files}


def plain(value: Any) -> Any:
    """A value that compares by all its bits."""
    if isinstance(value, torch.Tensor):
        return plain(value.detach().float().numpy())
    if isinstance(value, numpy.ndarray):
        return value.shape, sha256(numpy.ascontiguousarray(value)).hexdigest()
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value


def wrong(name: str, path: Path, value: Any, whole: Any) -> bool:
    """Whether a reader took something else than the whole file's content and than the damaged file's."""
    if value == whole:
        return False
    try:
        return name not in IN_FILE or value != plain(IN_FILE[name](path))
    except Exception:  # the other parser refuses it
        return True


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_read_right_or_refused_in_one_line_and_left_as_it_is(name, tmp_path, capsys):
    make, read = FILES[name]
    path, draw = make(tmp_path), random.Random(name)
    expected, whole = plain(read(path)), path.read_bytes()
    capsys.readouterr()
    silent = []
    for number in range(INPUTS):
        path.write_bytes(damaged(whole, draw))
        before = digests(tmp_path)
        try:
            value = plain(read(path))
            if not capsys.readouterr().err and wrong(name, path, value, expected):
                silent.append((number, path.read_bytes()[:300], str(value)[:300]))
        except (ConfigError, StopsRun) as error:
            assert one_line(error), number
        assert digests(tmp_path) == before, number
    assert not silent


@pytest.mark.parametrize("name", ["student.safetensors", "checkpoint"])
def test_a_flipped_bit_anywhere_leaves_the_weights_as_they_were_or_is_refused(name, tmp_path):
    make, read = FILES[name]
    path, draw, refused = make(tmp_path), random.Random(name), 0
    expected = plain(read(path))
    path = path if name != "checkpoint" else path.with_name("student.safetensors")
    whole = path.read_bytes()
    for _ in range(INPUTS):
        changed = bytearray(whole)
        changed[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(bytes(changed))
        try:
            assert plain(read(path if name != "checkpoint" else path.with_name("manifest.json"))) == expected
        except (ConfigError, StopsRun):
            refused += 1
    assert refused >= INPUTS * 0.9
