"""A real RTSP server, gst-rtsp-server, for the system's Python, which can load it: a live test picture.

It is H.264 at /live, and JPEGs at /mjpeg; at /sound it is H.265, and sound comes before it.

/usr/bin/python3 rtsp_server.py PORT [USER PASSWORD]
"""

import sys

import gi  # type: ignore[import-not-found]  # of the system's Python

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # type: ignore[import-not-found]  # noqa: E402

PICTURE = "videotestsrc is-live=true pattern=ball ! video/x-raw,width=320,height=240,framerate=30/1"
SETTINGS = "tune=zerolatency speed-preset=ultrafast key-int-max=15"
LAUNCHES = {
    "/live": f"( {PICTURE} ! x264enc {SETTINGS} ! rtph264pay name=pay0 pt=96 )",
    "/mjpeg": f"( {PICTURE},format=I420 ! jpegenc ! rtpjpegpay name=pay0 pt=26 )",
    "/sound": "( audiotestsrc is-live=true ! mulawenc ! rtppcmupay name=pay0 pt=0 "
    f"{PICTURE} ! x265enc {SETTINGS} ! rtph265pay name=pay1 pt=96 )",
}


def main(port: str, user: str = "", password: str = "") -> None:
    Gst.init(None)
    server = GstRtspServer.RTSPServer(address="127.0.0.1", service=port)
    if user:
        auth = GstRtspServer.RTSPAuth()
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", "viewer")
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
        server.set_auth(auth)
    for path, launch in LAUNCHES.items():
        factory = GstRtspServer.RTSPMediaFactory(launch=launch, shared=True)
        if user:
            permissions = GstRtspServer.RTSPPermissions()
            permissions.add_permission_for_role("viewer", "media.factory.access", True)
            permissions.add_permission_for_role("viewer", "media.factory.construct", True)
            factory.set_permissions(permissions)
        server.get_mount_points().add_factory(path, factory)
    server.attach(None)
    print("ready", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main(*sys.argv[1:])
