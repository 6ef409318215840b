"""agp-edge: trained AGPNet anomaly models on the device, from camera frame to OK or NG.

Nothing is imported here: `import agp_edge` stays free, and each module loads what it uses.
"""

__version__ = "0.1.0"
