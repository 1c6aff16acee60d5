"""A sans-IO HTTP/2 server core (RFC 9113): bytes in, calls of an application and bytes out.

It opens no socket and needs no event loop. It implements what gRPC clients use: no push, and priorities are ignored.
"""
