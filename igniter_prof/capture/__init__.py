"""Requests and responses from packets: capture, TCP streams, HTTP/1.1, HTTP/2, any other turns.

``ring``, ``worker`` and what they import (``packets``, ``streams``, ``conversations``, ``http1``,
``http2``, ``turns``, ``exchanges``) use the standard library only: they run in the capturing
process, which has to be there at once and stay small. ``live`` is the handle on that process,
``pcap`` reads files.
"""
