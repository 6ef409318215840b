"""Triggers: what says that a part lies before the camera, found by the scheme of a URL in one table."""

from __future__ import annotations

import importlib

from agp_edge.errors import InputError
from agp_edge.secrets import expand_secrets
from agp_edge.triggers.base import Fire, Trigger

__all__ = ["TRIGGERS", "Fire", "Trigger", "open_trigger"]

TRIGGERS = {
    "mqtt": ("agp_edge.triggers.mqtt", "MqttTrigger"),
    "mqtts": ("agp_edge.triggers.mqtt", "MqttTrigger"),
    "http": ("agp_edge.triggers.http", "HttpTrigger"),
    "gpio": ("agp_edge.triggers.gpio", "GpioTrigger"),
}
"""Scheme -> module and class."""


def open_trigger(url: str) -> Trigger:
    """Make the trigger of a URL; it begins when it is started.

    Args:
        url: `mqtt://BROKER/TOPIC` (subscribed), `http://HOST:PORT/PATH` (listened at), `gpio://CHIP/LINE` (an edge).
            `${NAME}` and `${file:PATH}` in it are secrets, see `agp_edge.secrets`.

    Raises:
        InputError: there is no such scheme, or the URL says too little.
        MissingExtraError: what it needs is not installed.
    """
    expanded = expand_secrets(url)
    scheme = expanded.partition("://")[0].lower() if "://" in expanded else ""
    if scheme not in TRIGGERS:
        raise InputError(
            f"--trigger {scheme or '…'} is no trigger",
            f"take one of: {', '.join(f'{name}://' for name in TRIGGERS)}",
        )
    module, name = TRIGGERS[scheme]
    trigger: Trigger = getattr(importlib.import_module(module), name)(expanded)
    return trigger
