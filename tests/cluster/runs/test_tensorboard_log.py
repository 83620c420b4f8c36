"""TensorBoard gets every number of a step, and the videos of an evaluation as moving pictures."""

import io
import struct

import numpy
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from actors.generation.video_writer import Mp4File
from cluster.runs.tensorboard_log import TensorBoardLog


def entries(folder):
    """(step, entry) of every event in a folder; a record is its length, a checksum, the event and a checksum."""
    for file in folder.glob("events.*"):
        content = file.read_bytes()
        while content:
            (length,) = struct.unpack_from("<Q", content)
            event = Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            yield from ((event.step, value) for value in event.summary.value)


def test_numbers_are_curves_and_films_are_moving_pictures(tmp_path):
    film = Mp4File(tmp_path / "0000.mp4", 16, 192, 320)
    for light in numpy.linspace(0, 255, 32):
        film.write(numpy.full((1, 192, 320, 3), light, numpy.uint8))
    film.close()
    log = TensorBoardLog(tmp_path / "events")
    metrics = {"student/loss": 0.5, "buffer/starts": {"critic": {0: 1}}, "evaluation/step": 8}
    log("dmd", 10, metrics, [tmp_path / "0000.mp4"])
    log.writer.close()
    logged = {value.tag: (step, value) for step, value in entries(tmp_path / "events")}
    assert logged.keys() == {"dmd/student/loss", "dmd/evaluation/step", "dmd/evaluation/video_0000"}
    step, value = logged["dmd/student/loss"]
    assert (step, value.simple_value) == (10, 0.5)
    step, value = logged["dmd/evaluation/video_0000"]
    picture = Image.open(io.BytesIO(value.image.encoded_image_string))
    assert step == 8 and picture.format == "GIF" and picture.n_frames == 16
    assert picture.size == (value.image.width, value.image.height) == (256, 154)
