"""A real RTSP server on loopback, for the system's Python with GStreamer: `rtsp_server.py WIDTHxHEIGHT [PORT]`.

Serves a moving ball at rtsp://127.0.0.1:PORT/live and prints the port, once it listens. `--codec H265` or `JPEG` instead of
H264; with `--password P` it wants user `admin` and that password (digest). `--lose 0.01` loses every hundredth packet of bars that
move sideways: each row of such a picture is like every other.
"""

import argparse
import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

PIPELINE = (
    "( videotestsrc is-live=true pattern={pattern} ! video/x-raw,format=I420,width={width},height={height},framerate=30/1 "
    "! {coder} )"
)
CODERS = {
    "H264": "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=5 ! rtph264pay name=pay0 config-interval=1",
    "H265": "x265enc tune=zerolatency speed-preset=ultrafast key-int-max=5 ! rtph265pay name=pay0 config-interval=1",
    "JPEG": "jpegenc ! rtpjpegpay name=pay0",
}


def lock(server: GstRtspServer.RTSPServer, factory: GstRtspServer.RTSPMediaFactory, password: str) -> None:
    """Let nobody in but `admin`."""
    permissions = GstRtspServer.RTSPPermissions.new()
    permissions.add_role("user")
    for right in (
        GstRtspServer.RTSP_PERM_MEDIA_FACTORY_ACCESS,
        GstRtspServer.RTSP_PERM_MEDIA_FACTORY_CONSTRUCT,
    ):
        permissions.add_permission_for_role("user", right, True)
    factory.set_permissions(permissions)
    token = GstRtspServer.RTSPToken.new()
    token.set_string(GstRtspServer.RTSP_TOKEN_MEDIA_FACTORY_ROLE, "user")
    auth = GstRtspServer.RTSPAuth.new()
    auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
    auth.add_digest("admin", password, token)
    server.set_auth(auth)


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("size")
    parser.add_argument("port", nargs="?", default="0")
    parser.add_argument("--codec", default="H264", choices=CODERS)
    parser.add_argument("--password")
    parser.add_argument("--lose", type=float)
    arguments = parser.parse_args()
    width, height = arguments.size.split("x")
    Gst.init(None)
    server = GstRtspServer.RTSPServer.new()
    server.set_address("127.0.0.1")
    server.set_service(arguments.port)
    factory = GstRtspServer.RTSPMediaFactory.new()
    coder, pattern = CODERS[arguments.codec], "ball"
    if arguments.lose is not None:
        coder = (
            coder.replace(" name=pay0", " mtu=200")
            + f" ! identity drop-probability={arguments.lose} name=pay0"
        )
        pattern = "smpte75 horizontal-speed=2"
    factory.set_launch(PIPELINE.format(pattern=pattern, width=width, height=height, coder=coder))
    factory.set_shared(True)
    server.get_mount_points().add_factory("/live", factory)
    if arguments.password:
        lock(server, factory, arguments.password)
    if not server.attach(None):
        sys.exit("cannot listen")
    print(server.get_bound_port(), flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
