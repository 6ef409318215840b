"""Where frames come from: cameras of V4L2 and GigE Vision, and what decodes video. Read from files, nothing is opened."""

from __future__ import annotations

import os
import re
from pathlib import Path

from agp_edge.deploy.findings import Check, Site
from agp_edge.deploy.nvidia import Answer
from agp_edge.machine import read_fact


def check_cameras(site: Site) -> Check:
    """The V4L2 devices by name, with those marked that give no pictures."""
    name = "cameras"
    devices = sorted(site.glob("dev/video[0-9]*"), key=lambda path: (len(path.name), path.name))
    if not devices:
        return Check(name, "not here", "no /dev/video*; a network camera or a file needs none")
    named, cameras = [], []
    for device in devices:
        title = read_fact(site.root, f"sys/class/video4linux/{device.name}/name")
        captures = _captures(site, device.name)
        notes = [title or "", "" if captures else "no capture device"]
        note = "; ".join(filter(None, notes))
        named.append(f"/dev/{device.name}" + (f" ({note})" if note else ""))
        if captures:
            cameras.append(device)
    closed = [device for device in cameras if not os.access(device, os.R_OK | os.W_OK)]
    if closed:
        detail = f"{', '.join(named)}; this user may not open {', '.join(path.name for path in closed)}"
        return Check(name, "missing", detail, 'sudo usermod -aG video "$USER"')
    return Check(name, "ok" if cameras else "not here", ", ".join(named))


def _captures(site: Site, device: str) -> bool:
    """Whether a device gives pictures, as far as files tell; True where they do not."""
    node = f"sys/class/video4linux/{device}"
    # udev asks each device when it appears and keeps the answer: `:capture:`, or `:` for one of metadata.
    kept = read_fact(site.root, f"run/udev/data/c{read_fact(site.root, f'{node}/dev')}") or ""
    found = re.search(r"^E:ID_V4L_CAPABILITIES=(\S*)", kept, re.MULTILINE)
    if found:
        return ":capture:" in found[1]
    # Without udev, as in a container: a USB camera's devices come in pairs, pictures and then their metadata.
    driver = site.root / node / "device/driver"
    index = read_fact(site.root, f"{node}/index") or "0"
    is_usb = driver.exists() and Path(os.path.realpath(driver)).name == "uvcvideo"
    return not (is_usb and index.isdigit() and int(index) % 2)


def check_gige(site: Site) -> Check:
    """Aravis, which finds and reads cameras of GigE Vision and USB3 Vision."""
    name = "GigE Vision"
    libraries = [path.name for path in site.libraries("libaravis-0.*.so.*")]
    get = site.apt("libaravis-0.8-0")
    if not libraries:
        return Check(name, "missing", "no Aravis; only cameras of GigE Vision and USB3 Vision need it", get)
    versions = sorted({re.sub(r"^libaravis-|\.so.*$", "", library) for library in libraries})
    if "0.8" in versions:
        return Check(name, "ok", "Aravis 0.8")
    return Check(name, "missing", f"Aravis {', '.join(versions)} is there, 0.8 is not", get)


def check_decoders(site: Site, has_ffmpeg: bool, has_gpu: bool, answer: Answer = None) -> Check:
    """What decodes H.264: elements of GStreamer, and FFmpeg inside OpenCV.

    Args:
        site: where to look.
        has_ffmpeg: whether OpenCV was built with FFmpeg.
        has_gpu: whether there is an NVIDIA GPU, which has a decoder of its own.
        answer: element -> whether it opens its device, of those that GStreamer has; or why it said nothing. None where it
            was not asked: then the files of plugins tell, which are there without any hardware too.
    """
    name = "video decoders"
    there = [element for element, plugin in DECODERS.items() if site.libraries(f"gstreamer-1.0/{plugin}")]
    opens, notes = there, []
    if isinstance(answer, dict):
        opens = [element for element in DECODERS if answer.get(element)]
        notes += [f"{element} does not open" for element, works in answer.items() if not works]
    elif answer is not None:
        opens = []
        notes.append(f"GStreamer: {answer}")
    if site.is_jetson:
        best, package = "nvv4l2decoder", "nvidia-l4t-gstreamer"
    elif has_gpu:
        best, package = "nvh264dec", "gstreamer1.0-plugins-bad"
    else:
        best, package = "avdec_h264", "gstreamer1.0-libav"
    shown = ", ".join([*opens, *(["FFmpeg in OpenCV"] if has_ffmpeg else [])])
    if not shown:
        detail = "; ".join(["neither FFmpeg in OpenCV nor a GStreamer element", *notes])
        return Check(name, "missing", detail, site.apt(package))
    if best in opens or best == "avdec_h264":
        return Check(name, "ok", "; ".join([shown, *notes]))
    if best in there:
        # Installing it again would change nothing: its driver is not whole, or not let into a container.
        notes.append(f"{best} is installed and has no decoder to drive")
        return Check(name, "ok", "; ".join([shown, *notes]), f"gst-inspect-1.0 {best}")
    notes.append(f"{best} would decode on the GPU's own decoder")
    return Check(name, "ok", "; ".join([shown, *notes]), site.apt(package))


# The plugins are in GStreamer's own modules good (v4l2), bad (nvcodec, va) and libav, and in NVIDIA's nvidia-l4t-gstreamer.
DECODERS = {
    "nvv4l2decoder": "libgstnvvideo4linux2.so",
    "nvh264dec": "libgstnvcodec.so",
    "vah264dec": "libgstva.so",
    "v4l2h264dec": "libgstvideo4linux2.so",
    "avdec_h264": "libgstlibav.so",
}
"""Element -> file of its plugin, the best first. All but the last are in hardware."""

# By its path: the package around it would bring numpy. Plugins are looked through in this process: one that waits for another
# looks as if it hung.
GSTREAMER_PROBE = f"""
import os, runpy
os.environ["GST_REGISTRY_FORK"] = "no"
gst = runpy.run_path({str(Path(__file__).parents[1] / "sources" / "gst_binding.py")!r})["load_gst"]()
answer = {{name: gst.reaches_ready(name) for name in {list(DECODERS)} if gst.has_element(name)}}
"""
"""Which decoders open what they need, asked of GStreamer itself."""
