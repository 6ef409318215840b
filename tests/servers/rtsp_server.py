"""A real RTSP server on loopback, for the system's Python with GStreamer: `rtsp_server.py WIDTHxHEIGHT [PORT [USER:PASSWORD]]`.

Serves H.264 of a moving ball at rtsp://127.0.0.1:PORT/live and prints the port, once it listens.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

PIPELINE = (
    "( videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width={width},height={height},framerate=30/1 "
    "! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=5 ! rtph264pay name=pay0 config-interval=1 )"
)


def ask_for_password(
    server: GstRtspServer.RTSPServer, factory: GstRtspServer.RTSPMediaFactory, who: str
) -> None:
    """Have the server ask by Digest, as cameras do."""
    user, password = who.split(":")
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    auth = GstRtspServer.RTSPAuth()
    auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
    auth.add_digest(user, password, token)
    server.set_auth(auth)
    permissions = GstRtspServer.RTSPPermissions()
    for permission in ("media.factory.access", "media.factory.construct"):
        permissions.add_permission_for_role("viewer", permission, True)
    factory.set_permissions(permissions)


def main() -> None:
    """Serve until killed."""
    width, height = sys.argv[1].split("x")
    Gst.init(None)
    server = GstRtspServer.RTSPServer.new()
    server.set_address("127.0.0.1")
    server.set_service(sys.argv[2] if len(sys.argv) > 2 else "0")
    factory = GstRtspServer.RTSPMediaFactory.new()
    factory.set_launch(PIPELINE.format(width=width, height=height))
    factory.set_shared(True)
    if len(sys.argv) > 3:
        ask_for_password(server, factory, sys.argv[3])
    server.get_mount_points().add_factory("/live", factory)
    if not server.attach(None):
        sys.exit("cannot listen")
    print(server.get_bound_port(), flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
