"""A CUDA graph: work that is written down once and then queued by a single call."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from agp_edge.cuda.base import CaptureError, Resource
from agp_edge.cuda.device import Device
from agp_edge.cuda.stream import Stream
from agp_edge.errors import AgpEdgeError, DeviceLostError


class Graph(Resource):
    """What `work` queues in a stream, with the addresses that it uses now.

    Whatever `work` uses must outlive this, and `work` must have been done once before: libraries load and allocate then, which
    a capture does not allow.

    Args:
        device: whose; it must outlive this.
        stream: that `work` queues in.
        work: is called once, and what it queues is written down, not done.

    Raises:
        CaptureError: the driver's binding has no graphs, or something of `work` cannot be in one.
    """

    def __init__(self, device: Device, stream: Stream, work: Callable[[], None]) -> None:
        self._device = device
        driver = device.driver
        if not driver.captures_graphs:
            raise CaptureError(
                "this binding of the CUDA driver has no graphs", "pip install 'agp-edge[cuda]' brings one"
            )
        device.ask(driver.begin_capture, stream.handle)
        try:
            work()
        except BaseException:
            # The stream must take work again; what is told is what went wrong first.
            with contextlib.suppress(AgpEdgeError):
                device.release(driver.destroy_capture, device.ask(driver.end_capture, stream.handle))
            raise
        capture = _ask(device, driver.end_capture, stream.handle)
        try:
            self._handle = _ask(device, driver.instantiate_graph, capture)
        except BaseException:
            device.release(driver.destroy_capture, capture)
            raise
        try:
            device.release(driver.destroy_capture, capture)
        except BaseException:
            self.close()
            raise

    def launch(self, stream: Stream) -> None:
        """Queue all of it in a stream.

        Raises:
            DeviceLostError: the device is lost, now or by what was queued before.
        """
        self.prepare_launch(stream)()

    def prepare_launch(self, stream: Stream) -> Callable[[], None]:
        """`launch` for over and over, while both are open."""
        self._check_open()
        return self._device.prepare("launch_graph", self._handle, stream.handle)

    def _free(self) -> None:
        self._device.release(self._device.driver.destroy_graph, self._handle)


def _ask(device: Device, call: Callable[[int], int], handle: int) -> int:
    """Whatever the driver has against a graph, what the graph is of can still be queued; a lost device is lost."""
    try:
        return device.ask(call, handle)
    except DeviceLostError:
        raise
    except AgpEdgeError as error:
        what = error.what
    raise CaptureError(what, "run without CUDA graphs: --no-cuda-graphs")
