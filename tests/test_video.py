"""Videos: times, sound, colours and turn stay; a run that ends goes on from the last whole segment."""

import dataclasses
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from sr.core.errors import UserError
from sr.images import ImageData
from sr.inference.choices import CODECS
from sr.inference.folders.convert import convert
from sr.inference.upscale import pick_model, upscale
from sr.inference.video import VideoSettings, check_video, make_video

av = pytest.importorskip("av")
WIDTH, HEIGHT, FRAMES = 32, 24, 20
FILM = VideoSettings(preset="ultrafast", crf=4, segment=8)


def colour(n: int) -> tuple[int, int, int]:
    return 40 + 8 * n, 200 - 6 * n, 90 + 3 * n


def clip(path: Path, *, times=range(FRAMES), rate=Fraction(30000, 1001), base=Fraction(1, 30000), **look) -> Path:
    """Write a video of flat colours at the given times (in frames), with a tone of the same length."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        video = file.add_stream("libx264", rate=rate, options={"crf": "1"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, look.get("format", "yuv420p")
        video.codec_context.time_base = base
        matrix, limits = look.get("matrix", 6), look.get("range", 1)
        video.codec_context.colorspace, video.codec_context.color_range = matrix, limits
        if "turn" in look:
            video.set_display_rotation(look["turn"])
        sound = file.add_stream("aac", rate=8000)
        sound.layout = "mono"
        for n, time in enumerate(times):
            pixels = np.empty((HEIGHT, WIDTH, 3), np.uint8)
            pixels[:] = colour(n)
            pixels[:4, :8] = 250 if "turn" in look else colour(n)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
                format=video.pix_fmt, dst_colorspace={6: 5, 1: 1}[matrix], dst_color_range=limits, src_color_range=2
            )
            frame.pts, frame.time_base = int(time * (1 / rate) / base), base
            frame.colorspace, frame.color_range = matrix, limits
            file.mux(video.encode(frame))
        tone = np.sin(np.arange(int(8000 * float((max(times) + 1) / rate))) / 4).astype(np.float32)[None]
        heard = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        heard.sample_rate, heard.pts = 8000, 0
        file.mux(video.encode(None) + sound.encode(heard) + sound.encode(None))
    return path


def probe(path: Path):
    with av.open(str(path)) as file:
        frames = list(file.decode(video=0))
    with av.open(str(path)) as file:
        sound = [bytes(packet) for packet in file.demux(audio=0) if packet.size]
        length = file.duration / 1e6
        rate = file.streams.video[0].average_rate
    return frames, sound, length, rate


def mean_colours(frames) -> np.ndarray:
    shown = [f.reformat(format="rgb24", src_colorspace=5, dst_color_range=2).to_ndarray() for f in frames]
    return np.stack([pixels[8:].mean((0, 1)) for pixels in shown])


def medians(frame) -> np.ndarray:
    """Of the stored values of each plane, without any conversion, in steps of 8 bits."""
    deep = frame.format.components[0].bits > 8
    planes = [
        np.frombuffer(p, np.uint16 if deep else np.uint8).reshape(p.height, -1)[:, : p.width] for p in frame.planes
    ]
    return np.array([np.median(plane) / (4 if deep else 1) for plane in planes])


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_rate_length_sound_and_colours_stay(tmp_path, suffix):
    source = clip(tmp_path / f"a clip é{suffix}")
    report = upscale([source], tmp_path / f"out{suffix}", pick_model("bicubic", scale=2), video=FILM)
    assert report.written == [tmp_path / f"out{suffix}"], report.failed
    given, made = probe(source), probe(tmp_path / f"out{suffix}")
    assert [(f.width, f.height) for f in made[0]] == [(2 * WIDTH, 2 * HEIGHT)] * FRAMES
    assert [f.time for f in made[0]] == pytest.approx([f.time for f in given[0]], abs=1e-6)
    assert made[1] == given[1], "the sound is the same bytes"
    assert made[2] == pytest.approx(given[2], abs=1024 / 8000), "as long, but for what a packet of sound is filled up"
    assert float(made[3]) == pytest.approx(float(given[3]), rel=1e-3)
    assert np.abs(mean_colours(made[0]) - mean_colours(given[0])).max() <= 3
    assert np.abs(mean_colours(made[0]) - np.array([colour(n) for n in range(FRAMES)])).max() <= 5
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([source.name, f"out{suffix}"])


def test_uneven_times_stay(tmp_path):
    times = [0, 1, 2, 5, 6, 6.5, 7, 11, 12, 13, 20, 21, 21.5, 22, 30]
    source = clip(tmp_path / "a.mp4", times=times)
    upscale([source], tmp_path / "b.mp4", pick_model("bicubic", scale=2), video=FILM)
    given, made = probe(source), probe(tmp_path / "b.mp4")
    assert [f.pts * f.time_base for f in made[0]] == [f.pts * f.time_base for f in given[0]]
    assert len({round(b.time - a.time, 4) for a, b in zip(made[0], made[0][1:], strict=False)}) > 3


@pytest.mark.parametrize(
    ("look", "matrix", "limits"),
    [({"matrix": 1}, 1, 1), ({"matrix": 6, "range": 2}, 6, 2), ({"matrix": 1, "format": "yuv420p10le"}, 1, 1)],
)
def test_matrix_range_and_depth_stay(tmp_path, look, matrix, limits):
    source = clip(tmp_path / "a.mkv", **look)
    upscale([source], tmp_path / "b.mkv", pick_model("bicubic", scale=2), video=FILM)
    given, made = probe(source)[0], probe(tmp_path / "b.mkv")[0]
    assert {(int(f.colorspace), int(f.color_range)) for f in made} == {(matrix, limits)}
    assert made[0].format.name.removeprefix("yuvj") in (given[0].format.name.removeprefix("yuvj"), "yuv420p")
    for before, after in zip(given, made, strict=True):
        assert np.abs(medians(before) - medians(after)).max() <= 2


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_is_cut_and_joined(tmp_path, codec):
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    source = clip(tmp_path / "a.mkv", times=range(6))
    film = FILM._replace(codec=codec, segment=4)
    make_video(source, tmp_path / "b.mkv", lambda p: ImageData(p.rgb.repeat(1, 4, 4)), settings=film, key="")
    frames = probe(tmp_path / "b.mkv")[0]
    assert [f.time for f in frames] == pytest.approx([f.time for f in probe(source)[0]], abs=1e-6)
    assert np.abs(mean_colours(frames) - np.array([colour(n) for n in range(6)])).max() <= 6


def test_a_turn_is_made_once(tmp_path):
    source = clip(tmp_path / "a.mp4", turn=90)
    upscale([source], tmp_path / "b.mp4", pick_model("bicubic", scale=2), video=FILM)
    frame = probe(tmp_path / "b.mp4")[0][0]
    assert (frame.width, frame.height, frame.rotation) == (2 * HEIGHT, 2 * WIDTH, 0)
    luma = frame.reformat(format="gray").to_ndarray()
    assert luma[-14:, :6].mean() > luma[:14, :6].mean() + 50, "the upper left corner is the lower left one now"


class Ends(Exception):
    pass


def test_a_run_resumes_after_the_last_complete_segment(tmp_path):
    source, seen = clip(tmp_path / "a.mp4"), []

    def work(image: ImageData, ends: int = 99) -> ImageData:
        if len(seen) == ends:
            raise Ends
        seen.append(image)
        return dataclasses.replace(image, rgb=image.rgb.flip(0))

    def make(ends: int = 99, key: str = "k") -> None:
        make_video(source, tmp_path / "b.mp4", lambda p: work(p, ends), settings=FILM, key=key)

    with pytest.raises(Ends):
        make(ends=19)
    assert not (tmp_path / "b.mp4").exists()
    seen.clear()
    make()
    assert len(seen) == FRAMES - 16, "two segments of 8 were whole"
    whole = probe(tmp_path / "b.mp4")
    assert [f.time for f in whole[0]] == pytest.approx([f.time for f in probe(source)[0]])
    expected = np.array([colour(n)[::-1] for n in range(FRAMES)])
    assert np.abs(mean_colours(whole[0]) - expected).max() <= 5, "and none is twice or in another's place"
    seen.clear()
    with pytest.raises(Ends):
        make(ends=10)
    seen.clear()
    make(key="other settings")
    assert len(seen) == FRAMES
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_odd_sizes_and_files_that_are_no_videos(tmp_path):
    source = clip(tmp_path / "a.mp4", times=range(3))
    make_video(source, tmp_path / "b.mp4", lambda p: ImageData(p.rgb[:, :21, :31]), settings=FILM, key="")
    assert {(f.width, f.height) for f in probe(tmp_path / "b.mp4")[0]} == {(32, 22)}
    (tmp_path / "torn.mp4").write_bytes(source.read_bytes()[:300])
    (tmp_path / "words.mp4").write_text("no video")
    with av.open(str(tmp_path / "sound.mkv"), "w") as file:
        sound = file.add_stream("aac", rate=8000)
        sound.layout = "mono"
        heard = av.AudioFrame.from_ndarray(np.zeros((1, 2000), np.float32), format="fltp", layout="mono")
        heard.sample_rate = 8000
        file.mux(sound.encode(heard) + sound.encode(None))
    report = upscale([tmp_path], tmp_path / "out", pick_model("bicubic", scale=2), video=FILM)
    reasons = {path.name: reason for path, reason in report.failed}
    assert set(reasons) == {"torn.mp4", "words.mp4", "sound.mkv"}
    assert "holds no video" in reasons["sound.mkv"]
    assert all("\n" not in reason for reason in reasons.values())
    assert sorted(path.name for path in report.written) == ["a.mp4", "b.mp4"]
    with pytest.raises(UserError, match=r"cannot write '\.png'"):
        upscale([source], tmp_path / "b.png", pick_model("bicubic", scale=2))


def test_audio_that_the_container_cannot_hold_is_reported_first(tmp_path):
    with av.open(str(tmp_path / "a.avi"), "w") as file:
        video, sound = file.add_stream("libx264", rate=25), file.add_stream("pcm_mulaw", rate=8000)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        sound.layout = "mono"
        file.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8), format="rgb24")))
        heard = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        heard.sample_rate = 8000
        file.mux(video.encode(None) + sound.encode(heard) + sound.encode(None))

    def never(image: ImageData) -> ImageData:
        raise AssertionError

    notes = check_video(tmp_path / "a.avi", tmp_path / "b.m4v", FILM)
    assert [note.partition(" (")[0] for note in notes] == [".m4v cannot hold its sound"]
    with pytest.raises(UserError, match=r"\.m4v cannot hold its sound .*; give a name that ends in \.mkv or \.mov"):
        make_video(tmp_path / "a.avi", tmp_path / "b.m4v", never, settings=FILM, key="")
    assert [path.name for path in tmp_path.iterdir()] == ["a.avi"]


def test_a_video_is_kept_like_any_file(tmp_path):
    clip(tmp_path / "in" / "a.webm.mp4", times=range(4))

    def again(crf: int):
        film = FILM._replace(crf=crf)
        return upscale([tmp_path / "in"], tmp_path / "out", pick_model("bicubic", scale=2), video=film)

    assert len(again(20).written) == 1
    assert len(again(20).kept) == 1
    assert len(again(30).written) == 1
    assert len(again(30).kept) == 1


# ---- videos that are damaged, interlaced, or of other samplings ------------------------------------------------------


def damage(source: Path, target: Path, number: int) -> Path:
    """The video without a length of the first unit of one of its packets."""
    with av.open(str(source)) as file:
        places = [packet.pos for packet in file.demux(video=0) if packet.size]
    data = bytearray(source.read_bytes())
    data[places[number] : places[number] + 4] = b"\x7f\xff\xff\xff"
    target.write_bytes(data)
    return target


def test_a_damaged_frame_costs_that_frame(tmp_path):
    good = clip(tmp_path / "good.mp4")
    bad = damage(good, tmp_path / "bad.mp4", 13)
    report = upscale([bad], tmp_path / "out", pick_model("bicubic", scale=2), video=FILM)
    assert report.damaged == [(bad, "1 damaged frame is left out")]
    made = probe(tmp_path / "out" / "bad.mp4")
    times = [f.time for f in probe(good)[0]]
    assert [f.time for f in made[0]] == pytest.approx(times[:13] + times[14:], abs=1e-6), "the others keep their times"
    assert made[1] == probe(good)[1], "and the sound is whole"
    again = upscale([bad], tmp_path / "out", pick_model("bicubic", scale=2), video=FILM)
    assert (len(again.kept), again.damaged) == (1, report.damaged)
    refused = upscale([bad], tmp_path / "strict", pick_model("bicubic", scale=2), video=FILM, strict=True)
    assert refused.failed == [(bad, "1 damaged frame is left out; leave out --strict to convert the others")]


def test_a_damaged_video_resumes_at_the_same_frame(tmp_path):
    bad, seen = damage(clip(tmp_path / "good.mp4"), tmp_path / "bad.mp4", 3), []

    def work(image: ImageData, ends: int = 99) -> ImageData:
        if len(seen) == ends:
            raise Ends
        seen.append(image)
        return image

    with pytest.raises(Ends):
        make_video(bad, tmp_path / "b.mp4", lambda image: work(image, 10), settings=FILM, key="k")
    seen.clear()
    _, _, lost = make_video(bad, tmp_path / "b.mp4", work, settings=FILM, key="k")
    assert (len(seen), lost) == (FRAMES - 1 - 8, "1 damaged frame is left out")
    colours = [colour(n) for n in range(FRAMES) if n != 3]
    frames = probe(tmp_path / "b.mp4")[0]
    assert len(frames) == FRAMES - 1
    assert np.abs(mean_colours(frames) - np.array(colours))[4:].max() <= 6, (
        "those that follow are not predicted from it"
    )


def interlaced(path: Path) -> Path:
    with av.open(str(path), "w") as file:
        options = {"flags": "+ildct+ilme", "x264-params": "tff=1", "crf": "4"}
        video = file.add_stream("libx264", rate=25, options=options)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for n in range(12):
            pixels = np.zeros((48, 64, 3), np.uint8)
            pixels[0::2, 4 * n : 4 * n + 8] = pixels[1::2, 4 * n + 2 : 4 * n + 10] = 255
            file.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(video.encode(None))
    return path


def combs(path: Path) -> tuple[int, float]:
    """The number of frames, and the mean difference between neighbouring rows."""
    frames = [frame.to_ndarray(format="gray").astype(float) for frame in frames_in(path)]
    return len(frames), float(np.mean([np.abs(np.diff(frame, axis=0)).mean() for frame in frames]))


def frames_in(path: Path) -> list:
    with av.open(str(path)) as file:
        return list(file.decode(video=0))


def test_interlaced_video_is_reported_before_the_work(tmp_path, capfd):
    source = interlaced(tmp_path / "dv.mp4")

    def work(image: ImageData, on_tiles) -> ImageData:
        assert "dv.mp4: is interlaced, and its combs would be upscaled; give --deinterlace" in capfd.readouterr().err
        raise Ends

    convert([source], tmp_path / "out", work, title="t", settings={}, video=FILM)


def test_deinterlace(tmp_path, capfd):
    source = interlaced(tmp_path / "dv.mp4")
    film = FILM._replace(deinterlace=True)
    report = upscale([source], tmp_path / "out", pick_model("bicubic", scale=2), video=film)
    assert report.written
    assert "interlaced" not in capfd.readouterr().err
    before, after = combs(source), combs(tmp_path / "out" / "dv.mp4")
    assert after[0] == before[0] == 12
    assert after[1] < before[1] / 4
    assert [f.time for f in frames_in(tmp_path / "out" / "dv.mp4")] == [f.time for f in frames_in(source)]


@pytest.mark.parametrize("format", ["yuv444p", "yuv422p", "yuv422p10le", "yuv444p10le", "gray"])
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_sampling_and_depth_stay_where_the_encoder_can(tmp_path, format, codec):
    source = clip(tmp_path / "a.mkv", times=range(3), format=format)
    upscale([source], tmp_path / "b.mkv", pick_model("bicubic", scale=2), video=FILM._replace(codec=codec))
    kept = frames_in(tmp_path / "b.mkv")[0].format.name
    assert kept == ("yuv420p" if format == "gray" else format)


def test_what_the_encoder_cannot_keep_is_reported(tmp_path):
    source = clip(tmp_path / "a.mkv", times=range(3), format="yuv444p10le")
    notes = check_video(source, tmp_path / "b.mkv", FILM._replace(codec="libsvtav1"))
    assert notes == ["libsvtav1 stores its 4:4:4 chroma as 4:2:0; give another --codec"]
    assert not check_video(source, tmp_path / "b.mkv", FILM)
    deep = tmp_path / "deep.mkv"
    with av.open(str(deep), "w") as file:
        video = file.add_stream("libx265", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p12le"
        pixels = np.zeros((48, 64, 3), np.uint16)
        file.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb48le").reformat(format="yuv420p12le")))
        file.mux(video.encode(None))
    assert check_video(deep, tmp_path / "b.mkv", FILM) == ["libx264 stores its 12 bits as 10; give --codec libx265"]
    assert not check_video(deep, tmp_path / "b.mkv", FILM._replace(codec="libx265"))


@pytest.mark.parametrize("suffix", [".mkv", ".mov", ".mp4"])
def test_chapters_titles_and_tags_of_cameras_stay(tmp_path, suffix):
    """Also a tag that is not UTF-8, which Matroska takes from other programs."""
    chapters = [
        {"id": n, "start": n, "end": n + 1, "time_base": Fraction(1, 10), "metadata": {"title": f"part {n}"}}
        for n in (1, 2)
    ]
    with av.open(str(tmp_path / f"a{suffix}"), "w", options={"movflags": "use_metadata_tags"}) as file:
        file.metadata.update({"title": "A" * 8, "com.apple.quicktime.make": "Apple"})
        file.set_chapters(chapters)
        video = file.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.metadata.update({"language": "ger", "title": "main"})
        for n in range(4):
            frame = av.VideoFrame.from_ndarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = n, Fraction(1, 10)
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
    source = tmp_path / f"a{suffix}"
    source.write_bytes(source.read_bytes().replace(b"A" * 8, b"\xe4" + b"A" * 7))
    target = tmp_path / f"b{suffix}"
    assert check_video(source, target, FILM) == []
    make_video(source, target, lambda image: image, settings=FILM, key="")
    with av.open(str(target), metadata_errors="replace") as made:
        assert [chapter["metadata"] for chapter in made.chapters()] == [{"title": "part 1"}, {"title": "part 2"}]
        about = made.streams.video[0].metadata
        assert (about["language"], about.get("title", about.get("name"))) == ("ger", "main")
        assert made.metadata["title"].endswith("A" * 7)
        if suffix != ".mp4":
            assert {key.lower(): value for key, value in made.metadata.items()}["com.apple.quicktime.make"] == "Apple"


@pytest.mark.parametrize("codec", CODECS)
def test_static_hdr_metadata_stay(tmp_path, codec):
    from sr.inference.video.frames import read_info
    from sr.inference.video.hdr import Hdr, encoder_options

    hdr = Hdr((0.708, 0.292, 0.17, 0.797, 0.131, 0.046, 0.3127, 0.329, 0.0001, 1000.0), (900, 250))
    source = tmp_path / "hdr.mkv"
    with av.open(str(source), "w") as file:
        video = file.add_stream("libx265", rate=25, options=encoder_options(hdr, "libx265"))
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p10le"
        for n in range(3):
            pixels = np.full((64, 64, 3), 9000 * n, np.uint16)
            file.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb48le").reformat(format="yuv420p10le")))
        file.mux(video.encode(None))
    assert read_info(av, source).hdr.mastering == pytest.approx(hdr.mastering)
    make_video(source, tmp_path / "b.mkv", lambda image: image, settings=FILM._replace(codec=codec), key="")
    kept = read_info(av, tmp_path / "b.mkv").hdr
    assert kept.mastering == pytest.approx(hdr.mastering, abs=2e-4)
    assert kept.light == hdr.light


@pytest.mark.parametrize("suffix", [".3gp", ".flv", ".mts", ".m2ts", ".vob", ".mxf", ".f4v", ".ts", ".avi"])
def test_containers_that_libav_reads(tmp_path, suffix):
    codec = {".vob": "mpeg2video", ".mxf": "mpeg2video", ".avi": "mpeg4"}.get(suffix, "libx264")
    source = tmp_path / "in" / f"a{suffix}"
    source.parent.mkdir()
    with av.open(str(source), "w") as file:
        video = file.add_stream(codec, rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for n in range(6):
            file.mux(video.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 30 * n, np.uint8), format="rgb24")))
        file.mux(video.encode(None))
    report = upscale([source.parent], tmp_path / "out", pick_model("bicubic", scale=2), video=FILM)
    assert [path.name for path in report.written] == ["a.mkv"], report
    assert len(frames_in(tmp_path / "out" / "a.mkv")) == 6


@pytest.mark.parametrize("suffix", [".mkv", ".ts"])
def test_a_video_that_is_cut_is_reported(tmp_path, suffix):
    whole = clip(tmp_path / f"whole{suffix}", times=range(0, 300, 20))
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    *_, nothing = make_video(whole, tmp_path / "a.mkv", lambda image: image, settings=FILM, key="")
    *_, lost = make_video(cut, tmp_path / "b.mkv", lambda image: image, settings=FILM, key="")
    assert nothing == ""
    assert suffix == ".ts" or re.fullmatch(r"the last \d+ of \d+ seconds are missing", lost)
