"""edgetrust: the trust system of an IoT fleet, self-hosted.

Packages are the layers of `docs/develop/ARCHITECTURE.md`; an arrow points to what may be imported, and nothing points
up or sideways (checked in CI):

    cli -> hub | edge -> device | broker -> store | transport -> trust -> pki | protocol -> the floor (errors, clock,
    ...)
"""

__version__ = "0.1.0"
