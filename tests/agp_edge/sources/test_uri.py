from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agp_edge.errors import InputError
from agp_edge.sources import kind_of, open_source, redact
from agp_edge.sources.uri import escape_userinfo, split_userinfo


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("rtsp://admin:secret@10.0.0.5:554/live", "rtsp://admin:***@10.0.0.5:554/live"),
        ("rtsp://admin:se@cr/et?x#y@10.0.0.5/live", "rtsp://admin:***@10.0.0.5/live"),
        ("rtsp://10.0.0.5/live@2", "rtsp://10.0.0.5/live@2"),
        ("rtsp://10.0.0.5:554/live@2", "rtsp://10.0.0.5:554/live@2"),
        ("rtsp://[::1]:554/live@2", "rtsp://[::1]:554/live@2"),
        ("rtsp://cam.local:554/live", "rtsp://cam.local:554/live"),
        ("rtsp://cam.local:554/live@2", "rtsp://cam.local:***@2"),
        ("http://cam/mjpg?user=a&password=secret&q=1", "http://cam/mjpg?user=a&password=***&q=1"),
        ("http://cam/mjpg?access_token=secret", "http://cam/mjpg?access_token=***"),
        ("RTSP://a:secret@cam/", "RTSP://a:***@cam/"),
        ("user:secret@127.0.0.1/live", "user:***@127.0.0.1/live"),
        ("user:se@cr:et@127.0.0.1/live", "user:***@127.0.0.1/live"),
        ("rtsp:/user:secret@127.0.0.1/live", "rtsp:/user:***@127.0.0.1/live"),
        ("rtsp:///user:secret@127.0.0.1/live", "rtsp:///user:***@127.0.0.1/live"),
        ("rtsp//user:secret@127.0.0.1/live", "rtsp//user:***@127.0.0.1/live"),
        ("rstp:/user:secret@127.0.0.1/live", "rstp:***@127.0.0.1/live"),
        ("user:/:@127.0.0.1/live", "user:***@127.0.0.1/live"),
        ("admin://se:cret@127.0.0.1/live", "admin:***@127.0.0.1/live"),
        ("ftp://user:secret@127.0.0.1/live", "ftp:***@127.0.0.1/live"),
        ("rtsp:user:secret@127.0.0.1/live", "rtsp:***@127.0.0.1/live"),
        ("cam/mjpg?password=secret", "cam/mjpg?password=***"),
        ("video.mp4", "video.mp4"),
        ("/dev/video0", "/dev/video0"),
    ],
)
def test_redact(uri: str, shown: str) -> None:
    assert redact(uri) == shown


@given(st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"]), min_size=1))
def test_no_password_is_ever_shown(password: str) -> None:
    for head in ("rtsp://", "rtsp:/", ""):
        assert redact(f"{head}admin:{password}@10.0.0.5/live") == f"{head}admin:***@10.0.0.5/live"


def test_a_password_is_escaped_for_the_library_and_nothing_else() -> None:
    assert escape_userinfo("rtsp://a:b/c?d#e@cam/x?y") == "rtsp://a:b%2Fc%3Fd%23e@cam/x?y"
    for unchanged in ("rtsp://cam/x?y", "rtsp://cam.local:554/live@2", "rtsp://a:b@cam/x", "video.mp4"):
        assert escape_userinfo(unchanged) == unchanged


@pytest.mark.parametrize(
    ("uri", "kind"),
    [
        ("0", "v4l2"),
        ("/dev/video3", "v4l2"),
        ("/dev/v4l/by-id/usb-maker_model-index0", "v4l2"),
        ("v4l2:///dev/video0", "v4l2"),
        ("csi://1", "csi"),
        ("rtsp://cam/live", "rtsp"),
        ("https://cam/mjpg", "https"),
        ("a.mp4", "video"),
        ("a.PNG", "images"),
        ("shots/*.png", "images"),
        ("shots", "video"),
    ],
)
def test_kind_of(uri: str, kind: str) -> None:
    assert kind_of(uri) == kind


def test_a_folder_is_images(tmp_path: object) -> None:
    assert kind_of(str(tmp_path)) == "images"


@pytest.mark.parametrize(
    "uri",
    ["ftp://u:secret@host/x", "rtsp:/u:secret@host/x", "u:secret@host/x", "video://x", "csi://left", ""],
)
def test_what_is_no_source_is_refused_without_its_password(uri: str) -> None:
    with pytest.raises(InputError) as caught:
        open_source(uri)
    assert "secret" not in str(caught.value)


def test_a_url_without_its_scheme_is_told_how_one_begins(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="rtsp://"):
        open_source("u:secret@host/x")
    odd = tmp_path / "a:b@c.mp4"
    odd.touch()
    assert kind_of(str(odd)) == "video", "a file that is there is a file"
    assert kind_of(str(tmp_path / "a:b@*.mp4")) == "images"


def test_a_source_is_made_without_being_opened() -> None:
    source = open_source("rtsp://admin:secret@127.0.0.1:1/live")
    assert source.name == "rtsp://admin:***@127.0.0.1:1/live"
    assert source.live
    assert not open_source("absent.mp4").live


def test_a_camera_that_is_not_there() -> None:
    with pytest.raises(InputError, match="/dev/video99"):
        open_source("99").open()


def test_user_and_password_are_taken_apart_for_a_library_that_wants_them_so() -> None:
    assert split_userinfo("rtsp://a:b/c@d%25@cam:554/x") == ("rtsp://cam:554/x", "a", "b/c@d%")
    assert split_userinfo("rtsp://a@cam/x") == ("rtsp://cam/x", "a", "")
    assert split_userinfo("rtsp://cam/x@2") == ("rtsp://cam/x@2", "", "")
